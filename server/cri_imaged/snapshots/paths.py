"""Paths inside a layer, as a worker that has read hostile bytes reports them."""

from __future__ import annotations

from cri_imaged.errors import CorruptContentError


def components(path: bytes) -> tuple[bytes, ...]:
    """Split a relative path. `b""`, the root, has none.

    Raises:
        CorruptContentError: absolute, or with an empty, `.` or `..` component, or a NUL byte.
    """
    if not path:
        return ()
    parts = tuple(path.split(b"/"))
    if b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
        raise CorruptContentError(f"layer path {show(path)} does not stay in the layer")
    return parts


def check_name(path: bytes) -> None:
    """Refuse the root too where something is to be made or hidden. As `components`."""
    if not components(path):
        raise CorruptContentError("a layer cannot hide or link its own root")


def split(path: bytes) -> tuple[bytes, bytes]:
    """Parent and last component of a path that is not the root."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def show(path: bytes) -> str:
    """`path` for a message: printable, and cut where it is long."""
    return repr(path[:256].decode(errors="backslashreplace"))


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
