"""Indexes, manifests and configs, read from untrusted JSON into pure values.

A document that says one media type and looks like another is refused (CVE-2021-41190).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from cri_imaged.errors import (
    CorruptContentError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedContentError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform

_USER_CHARACTERS = 1024
"""Every list of images shows each image's user, and clients take lists of 16 MiB at the most."""


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or Docker manifest list."""

    media_type: str
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """An OCI manifest or Docker schema2 manifest."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What an image's config says that the daemon acts on; `document` is all of it."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    user: str
    labels: dict[str, str]
    document: dict[str, Any]


# `null` means absent in every field, as it does where Go reads it.


class _Platform(msgspec.Struct):
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(name="os.version", default=None)


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str | None = None
    digest: str | None = None
    size: int | None = None
    urls: list[str] | None = None
    platform: _Platform | None = None


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    manifests: list[_Descriptor] | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    fs_layers: msgspec.Raw = msgspec.Raw()


class _RootFs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _RunConfig(msgspec.Struct):
    User: str | None = None
    Labels: dict[str, str | None] | None = None


class _Config(_Platform):
    config: _RunConfig | None = None
    rootfs: _RootFs | None = None


def parse_document(data: bytes, media_type: str, limits: Limits) -> Index | Manifest:
    """Read an index or manifest that was announced as `media_type`.

    Raises:
        CorruptContentError: malformed, or announced type and fields contradict.
        UnsupportedContentError: a type that is no image (schema 1, artifacts, unknown).
        LimitExceededError: more manifests or layers than `limits` allows.
    """
    if media_type not in media_types.DOCUMENTS:
        raise UnsupportedContentError(_unsupported(media_type))
    document = _decode(data, _Document, "manifest")
    if document.media_type and document.media_type != media_type:
        raise CorruptContentError(
            f"manifest was announced as {media_type} but says mediaType {document.media_type[:200]}"
        )
    if document.fs_layers:
        raise CorruptContentError(f"manifest announced as {media_type} has fields of schema 1")
    if document.schema_version != 2:
        version = document.schema_version or 0
        raise CorruptContentError(f"manifest has schemaVersion {version}, want 2")
    if media_type in media_types.INDEXES:
        return _index(document, media_type, limits)
    return _manifest(document, media_type, limits)


def parse_config(data: bytes, limits: Limits) -> Config:
    """Read an image config.

    Raises:
        CorruptContentError: malformed.
        LimitExceededError: more diffIDs than `limits.layers`, or an absurdly long `User`.
    """
    raw = _decode(data, _Config, "config")
    document = _decode(data, dict[str, Any], "config")
    diff_ids = (raw.rootfs.diff_ids if raw.rootfs else None) or []
    if len(diff_ids) > limits.layers:
        raise LimitExceededError(f"config lists {len(diff_ids)} diffIDs, limit {limits.layers}")
    run = raw.config or _RunConfig()
    user = run.User or ""
    if len(user) > _USER_CHARACTERS:
        raise LimitExceededError(
            f"config has a User of {len(user)} characters, limit {_USER_CHARACTERS}"
        )
    return Config(
        platform=_platform(raw),
        diff_ids=tuple(_digest(text, "config: diffID") for text in diff_ids),
        user=user,
        labels={name: value or "" for name, value in (run.Labels or {}).items()},
        document=document,
    )


def type_of(data: bytes) -> str:
    """The media type of a stored document that was verified once: what it says of itself, else
    what its fields look like.

    Raises:
        CorruptContentError: malformed.
    """
    document = _decode(data, _Document, "manifest")
    if document.media_type:
        return document.media_type
    return media_types.OCI_INDEX if document.manifests is not None else media_types.OCI_MANIFEST


def _index(document: _Document, media_type: str, limits: Limits) -> Index:
    if document.config is not None or document.layers is not None:
        raise CorruptContentError(f"index announced as {media_type} has fields of a manifest")
    entries = document.manifests or []
    if len(entries) > limits.index_entries:
        raise LimitExceededError(
            f"index lists {len(entries)} manifests, limit {limits.index_entries}"
        )
    return Index(media_type, _descriptors(entries, "index: manifest"))


def _manifest(document: _Document, media_type: str, limits: Limits) -> Manifest:
    if document.manifests is not None:
        raise CorruptContentError(f"manifest announced as {media_type} has fields of an index")
    if document.config is None:
        raise CorruptContentError("manifest has no config")
    layers = document.layers or []
    if len(layers) > limits.layers:
        raise LimitExceededError(f"manifest lists {len(layers)} layers, limit {limits.layers}")
    config = _descriptor(document.config, "manifest: config")
    if config.media_type not in media_types.CONFIGS:
        raise UnsupportedContentError(
            f"manifest has a config of type {config.media_type[:200]!r}: an artifact, not an image"
        )
    if config.size > limits.config_bytes:
        raise LimitExceededError(f"config of {config.size} bytes, limit {limits.config_bytes}")
    manifest = Manifest(media_type, config, _descriptors(layers, "manifest: layer"))
    for position, layer in enumerate(manifest.layers):
        if layer.media_type not in media_types.LAYERS:
            raise UnsupportedContentError(
                f"manifest: layer {position} has the unsupported type {layer.media_type[:200]!r}"
            )
        if layer.size > limits.layer_bytes:
            raise LimitExceededError(
                f"manifest: layer {position} has {layer.size} bytes, limit {limits.layer_bytes}"
            )
    return manifest


_T = TypeVar("_T")


def _decode(data: bytes, into: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(data, type=into)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptContentError(f"{what} is malformed: {str(error)[:200]}") from None


def _descriptors(raw: Sequence[_Descriptor], what: str) -> tuple[Descriptor, ...]:
    return tuple(_descriptor(entry, f"{what} {n}") for n, entry in enumerate(raw))


def _descriptor(raw: _Descriptor, what: str) -> Descriptor:
    if raw.size is None or raw.size < 0:
        raise CorruptContentError(f"{what}: size is missing or negative")
    return Descriptor(
        media_type=raw.media_type or "",
        digest=_digest(raw.digest or "", what),
        size=raw.size,
        urls=tuple(raw.urls or ()),
        platform=_platform(raw.platform) if raw.platform else None,
    )


def _platform(raw: _Platform) -> Platform:
    return Platform.of(
        raw.os or "", raw.architecture or "", raw.variant or "", raw.os_version or ""
    )


def _digest(text: str, what: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidRequestError as error:
        raise CorruptContentError(f"{what}: {error}") from None


def _unsupported(media_type: str) -> str:
    if media_type in (media_types.DOCKER_MANIFEST_V1, media_types.DOCKER_MANIFEST_V1_SIGNED):
        return "Docker schema 1 manifests are not supported; push the image again with a new client"
    return f"manifest has the unsupported type {media_type[:200]!r}"
