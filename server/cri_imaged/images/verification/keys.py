"""Public keys, and whether one of them signed something.

The keys that cosign takes: ECDSA on the NIST curves, RSA (PKCS #1 v1.5) and Ed25519, in PEM. Who
verifies no signatures pays nothing for the library that does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cri_imaged.errors import ConfigError
from cri_imaged.limits import MIB

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

_FILE_BYTES = 1 * MIB
_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key."""

    file: Path
    fingerprint: str
    """`SHA256:` and the hex digest of the key's SubjectPublicKeyInfo in DER."""
    signed: Callable[[bytes, bytes], bool]
    """Whether a signature is one of these bytes by this key."""


def read_keys(files: Iterable[Path]) -> list[PublicKey]:
    """Read the keys of a policy, from the disk.

    Raises:
        ConfigError: a file that cannot be read or holds no such key; the message names it.
    """
    return [_read(file) for file in files]


def _read(file: Path) -> PublicKey:
    try:
        with file.open("rb") as stream:
            text = stream.read(_FILE_BYTES)
    except OSError as error:
        raise _wrong(file, f"cannot be read: {error.strerror}") from None
    return _parsed(file, text)


def _parsed(file: Path, text: bytes) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong(file, "holds no public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    fingerprint = f"SHA256:{hashlib.sha256(der).hexdigest()}"
    return PublicKey(file, fingerprint, _verifier(file, key))


def _verifier(file: Path, key: object) -> Callable[[bytes, bytes], bool]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    match key:
        case ed25519.Ed25519PublicKey():
            return _signed(key.verify)
        case rsa.RSAPublicKey() if key.key_size >= _RSA_BITS:
            return _signed(
                lambda sig, data: key.verify(sig, data, padding.PKCS1v15(), hashes.SHA256())
            )
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1() | ec.SECP521R1()):
            # Of the simple signing format always SHA-256; of bundles, what suits the curve.
            suited: dict[int, hashes.HashAlgorithm] = {384: hashes.SHA384(), 521: hashes.SHA512()}
            by_hash = [hashes.SHA256(), *filter(None, [suited.get(key.curve.key_size)])]
            checks = [_signed(_ecdsa(key, algorithm)) for algorithm in by_hash]
            return lambda sig, data: any(check(sig, data) for check in checks)
    raise _wrong(
        file,
        "is a key of a kind that is not supported: ECDSA on P-256, P-384 or P-521, RSA of at "
        f"least {_RSA_BITS} bits, or Ed25519",
    )


def _ecdsa(
    key: ec.EllipticCurvePublicKey, algorithm: hashes.HashAlgorithm
) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives.asymmetric import ec

    scheme = ec.ECDSA(algorithm)
    return lambda sig, data: key.verify(sig, data, scheme)


def _signed(verify: Callable[[bytes, bytes], None]) -> Callable[[bytes, bytes], bool]:
    from cryptography.exceptions import InvalidSignature

    def signed(signature: bytes, data: bytes) -> bool:
        try:
            verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return signed


def _wrong(file: Path, what: str) -> ConfigError:
    return ConfigError(f"image.verification.policy: key {file} {what}")
