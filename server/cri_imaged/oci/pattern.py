"""Patterns of image names."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError

_WILD = frozenset("*?[")
_IPV6 = re.compile(r"\[(?=[0-9a-fA-F:]+\][:/])")
"""The bracket before a registry that is an IPv6 address: no wildcard."""


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A glob (fnmatch: `*`, `?`, `[a-z]`, `[!a-z]`; `*` passes over `/`, `:` and `@`) that is
    matched with whole canonical names, such as `docker.io/library/busybox:1.35`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """Raises `InvalidRequestError` where no canonical name could match."""
        first, slash, _ = text.partition("/")
        may_be_registry = first == "localhost" or not _WILD.union(".:").isdisjoint(first)
        if not text.startswith("*") and not (slash and may_be_registry):
            raise InvalidRequestError(
                f"pattern {text!r} matches no image: names are matched whole, as "
                "docker.io/library/busybox:1.35; begin with a registry or *"
            )
        return cls(text)

    def matches(self, name: str) -> bool:
        """Whether a canonical name fits."""
        begin = _IPV6.match(self.text)
        glob = f"[[]{self.text[1:]}" if begin else self.text
        return re.match(fnmatch.translate(glob), name) is not None

    def __str__(self) -> str:
        return self.text


def is_pattern(text: str) -> bool:
    """Whether `text` has a wildcard, which no reference has."""
    begin = _IPV6.match(text)
    return not _WILD.isdisjoint(text[begin.end() :] if begin else text)
