"""Paths inside a layer, as a worker that has read hostile bytes reports them: relative, and never
out of the layer."""

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
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(parts):
        raise CorruptContentError(f"layer path {show(path)} does not stay in the layer")
    return parts


def check_name(path: bytes) -> None:
    """Refuse the root too, where something is to be made or hidden. As `components`."""
    if not components(path):
        raise CorruptContentError("a layer cannot hide or link its own root")


def show(path: bytes) -> str:
    """`path` for a message: quoted, and cut where it is long."""
    text = path[:256].decode(errors="backslashreplace")
    return repr(text + "…" if len(path) > 256 else text)
