"""What a host's answer to a request for a manifest is (pure)."""

from __future__ import annotations

import msgspec

from cri_imaged.errors import (
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    UnsupportedContentError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import lenient_json, media_types
from cri_imaged.oci.documents import Index, parse_document
from cri_imaged.registry.failures import HostFailure, Kind, printable

_NULL = msgspec.Raw(b"null")


class _Envelope(msgspec.Struct, rename="camel"):
    """Null stands for absence, as every client in Go has it."""

    media_type: str | None = None
    schema_version: int | None = None
    manifests: msgspec.Raw = _NULL
    config: msgspec.Raw = _NULL
    layers: msgspec.Raw = _NULL


def document_type(content_type: str, document: bytes) -> str:
    """The media type of a manifest or index: what the response announced, or, where that says
    nothing about documents, what the document says of itself.

    The same document may be labelled as OCI's and as Docker's, whose fields are the same: then
    its own word counts. A manifest that is called an index, or the reverse, is neither.

    Raises:
        HostFailure: no manifest and no index (a login page, a status or an error in JSON).
    """
    announced = content_type.partition(";")[0].strip().lower()
    try:
        envelope = lenient_json.decode(document, _Envelope)
    except ValueError:
        raise _no_manifest(announced) from None
    own = envelope.media_type or ""
    shown = _by_fields(envelope)
    said = [name for name in (own, announced) if name in media_types.DOCUMENTS]
    if any(_is_index(name) is not _is_index(said[0]) for name in said):
        raise HostFailure(Kind.CORRUPT, f"announces {announced} for what says it is {own}")
    if shown not in media_types.DOCUMENTS:
        if shown or (own and not said):
            return shown or own
        raise _no_manifest(announced)
    return (said or [own or shown])[0]


def check_document(document: bytes, media_type: str, limits: Limits) -> None:
    """Check that something can come of a manifest or index: what another host has may be sound.

    Raises:
        HostFailure: it is malformed, empty, too large, or of a type that is not supported.
    """
    if media_type == media_types.DOCKER_MANIFEST_V1:
        return
    try:
        parsed = parse_document(document, media_type, limits)
    except UnsupportedContentError as error:
        raise _useless(Kind.UNSUPPORTED, error) from None
    except CorruptContentError as error:
        raise _useless(Kind.CORRUPT, error) from None
    except LimitExceededError as error:
        raise _useless(Kind.TOO_LARGE, error) from None
    if isinstance(parsed, Index) and not parsed.manifests:
        raise HostFailure(Kind.NOT_FOUND, "answers with an index of nothing")


def _useless(kind: Kind, error: ImagedError) -> HostFailure:
    return HostFailure(kind, f"answers with what is no image: {error}")


def _by_fields(envelope: _Envelope) -> str:
    """What the fields look like; "" where they are none of a manifest or index."""
    if envelope.schema_version == 1:
        return media_types.DOCKER_MANIFEST_V1
    if envelope.manifests != _NULL:
        return media_types.OCI_INDEX
    if envelope.config != _NULL or envelope.layers != _NULL:
        return media_types.OCI_MANIFEST
    return ""


def _is_index(media_type: str) -> bool:
    return media_type in media_types.INDEXES


def _no_manifest(announced: str) -> HostFailure:
    what = printable(announced, 100) or "something"
    return HostFailure(Kind.CORRUPT, f"answers with {what} that is no manifest")
