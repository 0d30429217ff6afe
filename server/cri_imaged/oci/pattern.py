"""Patterns of image names."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError

_WILD = frozenset("*?[")


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
        return re.match(fnmatch.translate(self.text), name) is not None

    def __str__(self) -> str:
        return self.text


def is_pattern(text: str) -> bool:
    """Whether `text` has a wildcard, which no reference has."""
    return not _WILD.isdisjoint(text)
