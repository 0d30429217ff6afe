"""The private keys of this node, read from a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cri_imaged.limits import MIB

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, RSAKey

_FILE_BYTES = 1 * MIB
_BESIDE = ".pass"


@dataclass(frozen=True, slots=True)
class Keys:
    """What was found. No part of it is for a log but `problems`."""

    usable: tuple[RSAKey | ECKey, ...]
    problems: tuple[str, ...]
    """Files that hold no key that can be used, and why."""

    def __repr__(self) -> str:
        return f"Keys({len(self.usable)} usable, problems={self.problems})"


def read_keys(folder: Path) -> Keys:
    """Read the keys of `folder` from the disk; none where it is not there. A file is one key in PEM
    or DER, RSA or of a NIST curve. The first line of `NAME.pass` is the pass-phrase of `NAME`, or
    of `NAME` with an extension."""
    try:
        files = sorted(each for each in folder.iterdir() if each.suffix != _BESIDE)
    except FileNotFoundError:
        return Keys((), ())
    except OSError as error:
        return Keys((), (f"{folder}: {error.strerror}",))
    usable: list[RSAKey | ECKey] = []
    problems: list[str] = []
    for file in files:
        if not file.is_file():
            continue
        try:
            usable.append(_parsed(_content(file), _pass_phrase(file)))
        except OSError as error:
            problems.append(f"{file.name}: {error.strerror}")
        except _Unusable as error:
            problems.append(f"{file.name}: {error}")
    return Keys(tuple(usable), tuple(problems))


class _Unusable(Exception):  # noqa: N818  # told among others, and never raised to anybody
    """Why a file is no key that can be used."""


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_FILE_BYTES)


def _pass_phrase(file: Path) -> bytes | None:
    for beside in (file.with_name(file.name + _BESIDE), file.with_suffix(_BESIDE)):
        if beside.exists():
            return _content(beside).split(b"\n")[0].rstrip(b"\r") or None
    return None


def _parsed(content: bytes, pass_phrase: bytes | None) -> RSAKey | ECKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from joserfc.jwk import ECKey, RSAKey

    is_pem = content.lstrip().startswith(b"-----")
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        try:
            key = load(content, pass_phrase)
        except TypeError:  # with or without a pass-phrase, and the other way round
            if pass_phrase is None:
                raise _Unusable("needs a pass-phrase, in a file of its name and .pass") from None
            key = load(content, None)
    except (ValueError, UnsupportedAlgorithm):
        what = "its pass-phrase is wrong, or it" if pass_phrase is not None else "it"
        raise _Unusable(f"{what} is no private key in PEM or DER") from None
    plain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if isinstance(key, rsa.RSAPrivateKey):
        return RSAKey.import_key(plain)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ECKey.import_key(plain)
    raise _Unusable("it is neither an RSA nor an EC key")
