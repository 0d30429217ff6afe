"""Names inside a layer: their parts, and what those beginning with `.wh.` mean. Pure.

OCI image spec, layer.md, "Whiteouts"; the AUFS leftovers `.wh..wh.*` as containerd skips them.
"""

from __future__ import annotations

import enum

PREFIX = b".wh."
LINKS = b".wh..wh.plnk"
"""Where AUFS kept the data of files with several names; those are hardlinks to it."""
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"


class Special(enum.Enum):
    """What a name that begins with `.wh.` means."""

    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    IGNORED = "ignored"
    INVALID = "invalid"


def parts(path: bytes) -> list[bytes]:
    """The components of `path`, `.` dropped and `..` taken back by name; never above the root."""
    out: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if out:
                out.pop()
        elif part and part != b".":
            out.append(part)
    return out


def join(parent: bytes, name: bytes) -> bytes:
    """`name` inside `parent`, where b"" is the root."""
    return parent + b"/" + name if parent else name


def special(base: bytes) -> Special:
    """What the last component `base`, which begins with `.wh.`, means."""
    if base == _OPAQUE:
        return Special.OPAQUE
    if base in (PREFIX, b".wh..", b".wh..."):
        return Special.INVALID
    if base.startswith(_META):
        return Special.IGNORED
    return Special.WHITEOUT


def special_parent(components: list[bytes]) -> Special | None:
    """What directories that begin with `.wh.` mean for the entries in them: AUFS keeps its own
    records in `.wh..wh.*`; no others can exist."""
    for component in components:
        if component.startswith(PREFIX):
            return Special.IGNORED if component.startswith(_META) else Special.INVALID
    return None
