"""Descriptors and platforms, read from a stranger's JSON one at a time: what is long is refused
before it becomes objects."""

from __future__ import annotations

import sys
from typing import NamedTuple

import msgspec

from cri_imaged.errors import (
    CorruptContentError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedContentError,
)
from cri_imaged.limits import KIB, Limits
from cri_imaged.oci import reading
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform

NULL = msgspec.Raw(b"null")
_PLATFORM_CHARACTERS = 256
"""Of one part of a platform. Each is kept with its image, and told in errors."""
_LIST_BYTES = 64 * KIB
"""JSON of one descriptor's URLs, or of one platform's features."""


# `null` means absent in every field, as it does where Go reads it.
class PlatformParts(msgspec.Struct):
    """What says for which machines something is."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = msgspec.field(name="os.version", default=None)


class _Platform(PlatformParts):
    os_features: msgspec.Raw = msgspec.field(name="os.features", default=NULL)


class _Entry(msgspec.Struct, rename="camel"):
    media_type: str | None = None
    platform: _Platform | None = None
    artifact_type: str | None = None


class _Descriptor(_Entry):
    digest: str | None = None
    size: int | None = None
    urls: msgspec.Raw = NULL
    annotations: msgspec.Raw = NULL


class Entry(NamedTuple):
    """What an index says of one manifest, as far as choosing needs it."""

    media_type: str
    platform: Platform | None
    demands: tuple[str, ...]
    """`os.features`."""
    artifact_type: str


def entry(raw: msgspec.Raw) -> Entry:
    """Read an index's entry. Raises `CorruptContentError`, `LimitExceededError`."""
    said = reading.decode(raw, _Entry, "entry")
    features = said.platform.os_features if said.platform else NULL
    return Entry(
        media_type=said.media_type or "",
        platform=platform(said.platform) if said.platform else None,
        demands=tuple(feature or "" for feature in _texts(features, "entry: os.features")),
        artifact_type=said.artifact_type or "",
    )


def descriptor(raw: msgspec.Raw, what: str, limits: Limits) -> Descriptor:
    """Read a descriptor. Errors begin with `what`.

    Raises:
        CorruptContentError, UnsupportedContentError, LimitExceededError
    """
    said = reading.decode(raw, _Descriptor, what)
    if said.size is None or said.size < 0:
        raise CorruptContentError(f"{what}: size is missing or negative")
    return Descriptor(
        media_type=said.media_type or "",
        digest=digest(said.digest or "", what),
        size=said.size,
        urls=tuple(filter(None, _texts(said.urls, f"{what}: urls"))),
        platform=platform(said.platform) if said.platform else None,
        annotations=_annotations(said.annotations, what, limits),
        artifact_type=said.artifact_type or "",
    )


def memory(descriptor: Descriptor) -> int:
    """Bytes of its texts."""
    texts = (descriptor.media_type, descriptor.artifact_type, *descriptor.urls)
    pairs = descriptor.annotations
    return sum(map(sys.getsizeof, (*texts, *pairs, *pairs.values(), pairs)))


def platform(raw: PlatformParts) -> Platform:
    """A platform, with the defaults that containerd has. Raises `LimitExceededError`."""
    for part in (raw.os, raw.architecture, raw.variant, raw.os_version):
        if part and len(part) > _PLATFORM_CHARACTERS:
            raise LimitExceededError(
                f"platform {part[:50]!r}… of {len(part)} characters, limit {_PLATFORM_CHARACTERS}"
            )
    implied_os = "linux" if raw.architecture else ""  # this node's own, as containerd has it
    return Platform.of(
        raw.os or implied_os, raw.architecture or "", raw.variant or "", raw.os_version or ""
    )


def digest(text: str, what: str) -> Digest:
    """A digest. Raises `CorruptContentError` and `UnsupportedContentError`, beginning with
    `what`."""
    try:
        return Digest.parse(text)
    except InvalidRequestError as error:
        raise CorruptContentError(f"{what}: {error}") from None
    except UnsupportedContentError as error:
        raise UnsupportedContentError(f"{what}: {error}") from None


def _texts(raw: msgspec.Raw, what: str) -> list[str | None]:
    length = len(memoryview(raw))
    if length > _LIST_BYTES:
        raise LimitExceededError(f"{what} of {length} bytes, limit {_LIST_BYTES}")
    return [] if raw == NULL else reading.decode(raw, list[str | None], what)


def _annotations(raw: msgspec.Raw, what: str, limits: Limits) -> dict[str, str]:
    length = len(memoryview(raw))
    if length > limits.annotation_bytes:
        raise LimitExceededError(
            f"{what}: annotations of {length} bytes, limit {limits.annotation_bytes} "
            "(annotation_bytes)"
        )
    if raw == NULL:
        return {}
    read = reading.decode(raw, dict[str, str | None], f"{what}: annotations")
    return {key: value or "" for key, value in read.items()}
