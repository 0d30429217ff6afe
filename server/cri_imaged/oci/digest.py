"""Content digests (OCI image spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Protocol

from cri_imaged.errors import InvalidRequestError, UnsupportedContentError

_LENGTHS = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")


class Hasher(Protocol):
    """The part of hashlib's interface that verification needs."""

    def update(self, data: Any, /) -> None:
        """Feed bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all that was fed, in lower-case hexadecimal."""
        ...


class Digest(str):
    """`algorithm:hex`, of a supported algorithm (sha256, sha512). Build it with `parse`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check `text` and make it a digest.

        Raises:
            InvalidRequestError: not of the form that the specification gives.
            UnsupportedContentError: an algorithm other than sha256 and sha512.
        """
        shown = text[:160]
        if not _FORM.fullmatch(text):
            raise InvalidRequestError(f"digest {shown!r} is malformed, want sha256:<64 hex digits>")
        algorithm, _, hexadecimal = text.partition(":")
        length = _LENGTHS.get(algorithm)
        if length is None:
            raise UnsupportedContentError(
                f"digest {shown!r}: algorithm {algorithm!r} is not supported, "
                "only sha256 and sha512"
            )
        if not re.fullmatch(rf"[0-9a-f]{{{length}}}", hexadecimal):
            raise InvalidRequestError(
                f"digest {shown!r} is malformed, {algorithm} takes {length} lower-case hex digits"
            )
        return cls(text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The hexadecimal part."""
        return self.partition(":")[2]

    def hasher(self) -> Hasher:
        """A fresh hasher of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        """Whether `hasher` was fed what this digest names."""
        return self.hex == hasher.hexdigest()
