"""What an encrypted layer's annotations hold (pure). The source is ocicrypt, docs/spec and
blockcipher/."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from cri_imaged.decoders import decoder
from cri_imaged.errors import CorruptContentError, UnsupportedContentError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import LayerSecret

T = TypeVar("T", bound=msgspec.Struct)

JWE = "jwe"
PROVIDER = "provider."
_KEYS = "org.opencontainers.image.enc.keys."
_PUBLIC = "org.opencontainers.image.enc.pubopts"
_CIPHER = "AES_256_CTR_HMAC_SHA256"
_SCHEME_CHARACTERS = 200
_KEY_BYTES, _NONCE_BYTES, _HMAC_BYTES = 32, 16, 32


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A layer's key, wrapped by one scheme: each packet may be all that some recipient needs."""

    scheme: str
    """`jwe`, `pkcs7`, `provider.NAME`, …"""
    packets: tuple[bytes, ...]


class _Public(msgspec.Struct):
    cipher: str
    hmac: bytes
    cipheroptions: dict[str, bytes] | None = None


class _Private(msgspec.Struct):
    symkey: bytes
    cipheroptions: dict[str, bytes] | None = None


def wrapped_keys(layer: Descriptor, limit: int) -> list[Wrapped]:
    """How the layer's key is wrapped: by `limit` schemes, and of each that many packets, at the
    most.

    Raises:
        CorruptContentError: malformed, or not wrapped at all.
    """
    names = sorted(name for name in layer.annotations if name.startswith(_KEYS))
    found = [
        Wrapped(
            name.removeprefix(_KEYS)[:_SCHEME_CHARACTERS],
            tuple(map(_base64, layer.annotations[name].split(",", limit)[:limit])),
        )
        for name in names[:limit]
    ]
    if not found:
        raise CorruptContentError("it is encrypted, but for nobody: it has no wrapped key")
    return found


def secret_of(unwrapped: bytes, layer: Descriptor) -> LayerSecret:
    """What decrypts the layer: an unwrapped key, and what its annotations say besides.

    Raises:
        CorruptContentError: malformed.
        UnsupportedContentError: another cipher.
    """
    private = _read(unwrapped, _Private, "its wrapped key")
    public = _read(_base64(layer.annotations.get(_PUBLIC, "")), _Public, _PUBLIC)
    if public.cipher != _CIPHER:
        raise UnsupportedContentError(f"it is encrypted by {public.cipher[:100]!r}, not {_CIPHER}")
    nonce = _option(public.cipheroptions) or _option(private.cipheroptions)
    sizes = (len(private.symkey), len(nonce), len(public.hmac))
    if sizes != (_KEY_BYTES, _NONCE_BYTES, _HMAC_BYTES):
        raise CorruptContentError(
            "key, nonce and HMAC have {}, {} and {} bytes, want {}, {} and {}".format(
                *sizes, _KEY_BYTES, _NONCE_BYTES, _HMAC_BYTES
            )
        )
    return LayerSecret(private.symkey, nonce, public.hmac)


def _option(options: Mapping[str, bytes] | None) -> bytes:
    return (options or {}).get("nonce", b"")


def _read(data: bytes, into: type[T], what: str) -> T:
    try:
        return decoder(into).decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise CorruptContentError(f"{what} is malformed") from None  # and may be a secret


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CorruptContentError("its wrapped keys are malformed: no Base64") from None
