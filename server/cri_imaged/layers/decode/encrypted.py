"""Layers that are encrypted by AES-256-CTR and authenticated by HMAC-SHA256 (ocicrypt,
blockcipher/). The ciphertext is what an unencrypted layer of the type would be."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator

import msgspec

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.limits import Limits
from cri_imaged.oci.media_types import ENCRYPTED
from cri_imaged.ports import LayerSecret


def encrypted(inner: Decoder) -> Decoder:
    """A decoder of such layers, which are read by `inner` once they are decrypted."""

    def decode(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
        if encoded.secret is None:
            raise CorruptContentError("layer is encrypted, and nobody gave its key")
        plain = _decrypted(source, encoded.secret)
        as_plain = msgspec.structs.replace(
            encoded, media_type=encoded.media_type.removesuffix(ENCRYPTED), secret=None
        )
        try:
            yield from inner.decode(plain, as_plain, limits)
        except ImagedError:
            _authenticate(plain)  # what is not what was encrypted is told as such
            raise
        _authenticate(plain)

    return Decoder(decode, annotations=inner.annotations, prepare=_load)


def _load() -> None:
    """All that `_decrypted` takes, from the disk."""
    list(_decrypted((), LayerSecret(bytes(32), bytes(16), hmac.digest(bytes(32), b"", "sha256"))))


def _authenticate(plain: Iterator[bytes]) -> None:
    """Read on to the end, where it is known whether all was right."""
    for _ in plain:
        pass


def _decrypted(source: Iterable[bytes], secret: LayerSecret) -> Iterator[bytes]:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES256(secret.key), modes.CTR(secret.nonce)).decryptor()
    authentic = hmac.new(secret.key, digestmod=hashlib.sha256)
    for chunk in source:
        authentic.update(chunk)
        yield cipher.update(chunk)
    if not hmac.compare_digest(authentic.digest(), secret.hmac):
        raise CorruptContentError(
            "layer is not what was encrypted: its HMAC differs; it was changed, or the key is not "
            "its own"
        )
