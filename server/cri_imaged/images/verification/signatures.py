"""What a signature of an image consists of, in both forms that cosign attaches it in (pure).

Sources: sigstore/cosign, specs/SIGNATURE_SPEC.md and specs/BUNDLE_SPEC.md; secure-systems-lab/dsse,
protocol.md; in-toto/attestation, Statement v1.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple, TypeVar

import msgspec

from cri_imaged.decoders import decoder
from cri_imaged.errors import CorruptContentError
from cri_imaged.oci.digest import Digest

T = TypeVar("T", bound=msgspec.Struct)

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
"""Media type of a payload in an image's signature manifest."""
SIGNATURE = "dev.cosignproject.cosign/signature"
"""Annotation of such a payload: its signature, in Base64."""
BUNDLES = frozenset(
    {
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
    }
)
"""Media types of a bundle: of the referrer's artifact, and of its layer."""
_SIGNED_IMAGE = "https://sigstore.dev/cosign/sign/v1"
"""The predicate that says no more than that the image was signed. What else somebody attests, that
it has known faults for example, is not taken for a signature."""
_SIMPLE = "cosign container image signature"
_STATEMENT = "application/vnd.in-toto+json"
_TAG_CHARACTERS = 128


class Signature(NamedTuple):
    """Some bytes that speak of the image, and a signature of them."""

    signed: bytes
    signature: bytes


class _Image(msgspec.Struct):
    digest: str = msgspec.field(name="docker-manifest-digest")


class _Critical(msgspec.Struct):
    image: _Image
    type: str


class _Payload(msgspec.Struct):
    critical: _Critical


class _EnvelopeSignature(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_EnvelopeSignature]


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    dsse_envelope: _Envelope | None = None


class _Subject(msgspec.Struct):
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename="camel"):
    subject: list[_Subject]
    predicate_type: str


def signatures_tag(image: Digest) -> str | None:
    """The tag that an image's signatures are found under; None where no tag can be so long."""
    tag = f"{image.algorithm}-{image.hex}.sig"
    return tag if len(tag) <= _TAG_CHARACTERS else None


def simple(payload: bytes, annotation: str, image: Digest) -> Signature:
    """A signature in the simple signing format.

    Raises:
        CorruptContentError: malformed, or it is another image's.
    """
    critical = _read(payload, _Payload).critical
    if critical.type != _SIMPLE:
        raise CorruptContentError(f"it signs {critical.type[:100]!r}, not an image")
    if critical.image.digest != image:
        raise CorruptContentError(f"it is of another image, {critical.image.digest[:100]!r}")
    return Signature(payload, _base64(annotation))


def bundled(bundle: bytes, image: Digest) -> Signature:
    """A signature in a bundle.

    Raises:
        CorruptContentError: malformed, another image's, or it attests something else.
    """
    envelope = _read(bundle, _Bundle).dsse_envelope
    if envelope is None or len(envelope.signatures) != 1 or envelope.payload_type != _STATEMENT:
        raise CorruptContentError("the bundle holds no signed statement")
    payload = _base64(envelope.payload)
    statement = _read(payload, _Statement)
    if statement.predicate_type != _SIGNED_IMAGE:
        raise CorruptContentError(
            f"the bundle attests {statement.predicate_type[:100]!r}, not that the image is signed"
        )
    if all(each.digest.get(image.algorithm) != image.hex for each in statement.subject):
        raise CorruptContentError("the bundle is of another image")
    kind = envelope.payload_type.encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    return Signature(encoded, _base64(envelope.signatures[0].sig))


def _read(data: bytes, into: type[T]) -> T:
    try:
        return decoder(into).decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptContentError(f"it is malformed: {str(error)[:200]}") from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CorruptContentError("it is malformed: no Base64") from None
