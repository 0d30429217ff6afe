"""Keys that are wrapped by JWE (RFC 7516), as ocicrypt writes them: JSON, of one recipient or of
several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, RSAKey

_ALGORITHMS = [
    *("RSA-OAEP", "RSA-OAEP-256", "ECDH-ES+A128KW", "ECDH-ES+A192KW", "ECDH-ES+A256KW"),
    *("A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512", "A128GCM", "A192GCM", "A256GCM"),
]
"""Those that ocicrypt takes."""
_SHARED = ("protected", "unprotected", "iv", "ciphertext", "tag", "aad")
_ONE = ("header", "encrypted_key")


def unwrap(packet: bytes, keys: Sequence[RSAKey | ECKey], most: int) -> bytes | None:
    """What one of `keys` finds in a JWE, None where it is for none of them. So many recipients are
    looked at."""
    from joserfc import jwe

    for recipient in _recipients(packet, most):
        for key in keys:
            try:
                plaintext = jwe.decrypt_json(recipient, key, algorithms=_ALGORITHMS).plaintext
            except Exception:  # noqa: S112  # whatever the library makes of a stranger's packet
                continue
            if plaintext is not None:
                return plaintext
    return None


def recipients(packet: bytes, most: int) -> list[str]:
    """Whom a JWE is for, as far as it says: key management and key ID."""
    return [_describe(each) for each in _recipients(packet, most)]


def _recipients(packet: bytes, most: int) -> Iterator[Any]:
    """The packet for each recipient alone, in the flattened form."""
    document = _object(packet)
    shared = {name: document[name] for name in _SHARED if name in document}
    several = document.get("recipients")
    if not isinstance(several, list):
        several = [document]
    for one in several[:most]:
        if isinstance(one, Mapping):
            yield {**shared, **{name: one[name] for name in _ONE if name in one}}


def _describe(recipient: Mapping[str, Any]) -> str:
    from joserfc.util import urlsafe_b64decode

    header: dict[str, Any] = {}
    protected, own = recipient.get("protected"), recipient.get("header")
    if isinstance(protected, str):
        try:
            header |= _object(urlsafe_b64decode(protected.encode()))
        except ValueError:
            return "malformed"
    if isinstance(own, Mapping):
        header |= own
    parts = [header.get(name) for name in ("alg", "kid")]
    return " ".join(part[:100] for part in parts if isinstance(part, str)) or "unknown"


def _object(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
