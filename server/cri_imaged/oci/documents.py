"""Indexes, manifests and configs, read from untrusted JSON into pure values.

A document that says one media type and looks like another is refused (CVE-2021-41190).
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from cri_imaged.errors import (
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    UnsupportedContentError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import described, lenient_json, media_types, reading
from cri_imaged.oci.described import NULL
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform

_USER_CHARACTERS = 1024
"""Every list of images shows each image's user, and clients take lists of 16 MiB at the most."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What an index says of one manifest, as far as choosing needs it. The rest is checked only of
    what is chosen: an entry that nobody asks for may be of any kind."""

    media_type: str
    platform: Platform | None
    demands: tuple[str, ...]
    """`os.features`: what a node must offer to run this."""
    artifact_type: str
    _position: int
    _raw: msgspec.Raw
    _limits: Limits

    def descriptor(self) -> Descriptor:
        """The entry as a descriptor.

        Raises:
            CorruptContentError, UnsupportedContentError, LimitExceededError: it is malformed.
        """
        what = f"index: manifest {self._position}"
        return described.descriptor(self._raw, what, self._limits)


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or Docker manifest list."""

    media_type: str
    manifests: tuple[IndexEntry, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """An OCI manifest or Docker schema2 manifest."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    """Those of the types that layers have."""
    blobs: tuple[Descriptor, ...] = ()
    """What it lists besides its layers, of any type: a wasm module, say."""
    artifact_type: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """What an image's config says that the daemon acts on."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    user: str
    is_artifact: bool = False
    """Whether it is none of an image's; then nothing is read from it."""


_EMPTY = msgspec.Raw(b"[]")
_LATEST = 2**63 / 1e9
"""Unix seconds, in the year 2262: as nanoseconds no later time is a 64-bit number."""


class _Object(msgspec.Struct):
    pass


# `null` means absent in every field, as it does where Go reads it.
class _Document(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    artifact_type: str | None = None
    manifests: list[msgspec.Raw] | None = None
    config: msgspec.Raw = NULL
    layers: list[msgspec.Raw] | None = None
    fs_layers: msgspec.Raw = NULL


class _RootFs(msgspec.Struct):
    diff_ids: msgspec.Raw = NULL


class _RunConfig(msgspec.Struct):
    User: str | None = None


class _Config(described.PlatformParts):
    config: _RunConfig | None = None
    rootfs: _RootFs | None = None


class _Built(msgspec.Struct):
    created: str | None = None


def built(data: bytes) -> float:
    """When an image was built (Unix seconds), as its config says by RFC 3339; 0 where it says
    nothing that is a time, or one before 1970 or after `_LATEST`."""
    try:
        created = msgspec.convert(lenient_json.decode(data, _Built).created, datetime)
        seconds = created.timestamp() if created.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 <= seconds < _LATEST else 0.0


def parse_document(data: bytes, media_type: str, limits: Limits) -> Index | Manifest:
    """Read an index or manifest that was announced as `media_type`. OCI's and Docker's types stand
    for each other, as their fields are the same.

    Raises:
        CorruptContentError: malformed, or announced type and fields contradict.
        UnsupportedContentError: a type that is no manifest (schema 1, unknown).
        LimitExceededError: more manifests or layers than `limits` allows.
    """
    if media_type not in media_types.DOCUMENTS:
        raise UnsupportedContentError(_unsupported(media_type))
    reading.refuse_many_values(data, limits)
    document = reading.decode(data, _Document, "manifest")
    family = media_types.INDEXES if media_type in media_types.INDEXES else media_types.MANIFESTS
    if document.media_type and document.media_type not in family:
        raise CorruptContentError(
            f"manifest was announced as {media_type} but says mediaType {document.media_type[:200]}"
        )
    if document.fs_layers not in (NULL, _EMPTY):
        raise CorruptContentError(f"manifest announced as {media_type} has fields of schema 1")
    if document.schema_version not in (None, 2):
        raise CorruptContentError(f"manifest has schemaVersion {document.schema_version}, want 2")
    if media_type in media_types.INDEXES:
        return _index(document, media_type, limits)
    return _manifest(document, media_type, limits)


def parse_config(data: bytes, limits: Limits) -> Config:
    """Read an image config.

    Raises:
        CorruptContentError: malformed.
        LimitExceededError: more diffIDs than `limits.layers`, or an absurdly long `User`.
    """
    raw = reading.decode(data, _Config, "config")
    listed = raw.rootfs.diff_ids if raw.rootfs else NULL
    if len(bytes(listed)) > reading.diff_ids_bytes(limits):
        raise LimitExceededError(
            f"config has {len(bytes(listed))} bytes of diffIDs, limit {limits.layers} of them"
        )
    diff_ids = [] if listed == NULL else reading.decode(listed, list[str], "config: diff_ids")
    if len(diff_ids) > limits.layers:
        raise LimitExceededError(f"config lists {len(diff_ids)} diffIDs, limit {limits.layers}")
    run = raw.config or _RunConfig()
    user = run.User or ""
    if len(user) > _USER_CHARACTERS:
        raise LimitExceededError(
            f"config has a User of {len(user)} characters, limit {_USER_CHARACTERS}"
        )
    return Config(
        platform=described.platform(raw),
        diff_ids=tuple(described.digest(text, "config: diffID") for text in diff_ids),
        user=user,
    )


def config_of(manifest: Manifest, data: bytes, limits: Limits) -> Config:
    """Read the config of an image. It is one by its config's type, or, as Docker 1.10 gave that
    none of its own, by a diffID for each layer. All else is an artifact, whose config may be
    anything.

    Raises:
        CorruptContentError, LimitExceededError: as `parse_config`.
    """
    if manifest.config.media_type in media_types.CONFIGS:
        return parse_config(data, limits)
    with suppress(ImagedError):
        config = parse_config(data, limits)
        if config.diff_ids and len(config.diff_ids) == len(manifest.layers):
            return config
    return Config(Platform.of("", ""), (), "", is_artifact=True)


def is_object(data: bytes) -> bool:
    """Whether it is a JSON object, as an image's config is and an artifact's may be."""
    with suppress(CorruptContentError):
        reading.decode(data, _Object, "config")
        return True
    return False


def type_of(data: bytes) -> str:
    """The media type of a stored document that was verified once: what it says of itself, else
    what its fields look like.

    Raises:
        CorruptContentError: malformed.
    """
    document = reading.decode(data, _Document, "manifest")
    if document.media_type in media_types.DOCUMENTS:
        return document.media_type
    return media_types.OCI_INDEX if document.manifests is not None else media_types.OCI_MANIFEST


def _index(document: _Document, media_type: str, limits: Limits) -> Index:
    if document.config != NULL or document.layers is not None:
        raise CorruptContentError(f"index announced as {media_type} has fields of a manifest")
    entries = document.manifests or []
    if len(entries) > limits.index_entries:
        raise LimitExceededError(
            f"index lists {len(entries)} manifests, limit {limits.index_entries}"
        )
    return Index(media_type, tuple(_entry(n, raw, limits) for n, raw in enumerate(entries)))


def _entry(position: int, raw: msgspec.Raw, limits: Limits) -> IndexEntry:
    try:
        said = described.entry(raw)
    except (CorruptContentError, LimitExceededError):  # told only where it is needed
        said = described.Entry(media_types.OCI_MANIFEST, None, (), "")
    return IndexEntry(
        media_type=said.media_type,
        platform=said.platform,
        demands=said.demands,
        artifact_type=said.artifact_type,
        _position=position,
        _raw=raw,
        _limits=limits,
    )


def _manifest(document: _Document, media_type: str, limits: Limits) -> Manifest:
    if document.manifests is not None:
        raise CorruptContentError(f"manifest announced as {media_type} has fields of an index")
    if document.config == NULL:
        raise CorruptContentError("manifest has no config")
    listed = document.layers or []
    if len(listed) > limits.layers:
        raise LimitExceededError(f"manifest lists {len(listed)} layers, limit {limits.layers}")
    artifact_type = document.artifact_type or ""
    kept = _Kept(limits, sys.getsizeof(artifact_type))
    config = kept.descriptor(document.config, "manifest: config")
    if config.size > limits.config_bytes:
        raise LimitExceededError(f"config of {config.size} bytes, limit {limits.config_bytes}")
    layers: list[Descriptor] = []
    blobs: list[Descriptor] = []
    for position, raw in enumerate(listed):
        layer = kept.descriptor(raw, f"manifest: layer {position}")
        if layer.size > limits.layer_bytes:
            raise LimitExceededError(
                f"manifest: layer {position} has {layer.size} bytes, limit {limits.layer_bytes}"
            )
        (layers if layer.media_type in media_types.LAYERS else blobs).append(layer)
    return Manifest(media_type, config, tuple(layers), tuple(blobs), artifact_type)


class _Kept:
    """Descriptors that are kept for a whole pull."""

    def __init__(self, limits: Limits, memory: int) -> None:
        self._limits = limits
        self._memory = memory

    def descriptor(self, raw: msgspec.Raw, what: str) -> Descriptor:
        """Read one. As many as are kept are made and no more: each takes its time."""
        read = described.descriptor(raw, what, self._limits)
        self._memory += described.memory(read)
        if self._memory > self._limits.manifest_text_bytes:
            raise LimitExceededError(
                f"manifest: types, URLs and annotations take {self._memory} bytes of memory, "
                f"limit {self._limits.manifest_text_bytes} (manifest_text_bytes)"
            )
        return read


def _unsupported(media_type: str) -> str:
    if media_type in media_types.SCHEMA1:
        return (
            "Docker schema 1 manifests are not taken: push the image again with a newer client, "
            "or set image.enable_schema1"
        )
    return f"manifest has the unsupported type {media_type[:200]!r}"
