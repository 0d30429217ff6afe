"""Where paths of a layer lie in relation to one another."""

from __future__ import annotations


def split(path: bytes) -> tuple[bytes, bytes]:
    """Parent and last component of a path that is not the root."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


class Subtrees:
    """A set of directories, asked whether a path lies under one of them."""

    def __init__(self, roots: tuple[bytes, ...]) -> None:
        self._roots = frozenset(roots)

    def __contains__(self, path: bytes) -> bool:
        """Whether `path` is one of the directories."""
        return path in self._roots

    def cover(self, path: bytes) -> bool:
        """Whether `path` is strictly below one of the directories."""
        if not self._roots:
            return False
        while path:
            path = split(path)[0]
            if path in self._roots:
                return True
        return False
