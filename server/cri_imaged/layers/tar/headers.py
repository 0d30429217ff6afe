"""Header blocks of a tar archive, with the extensions before them, as entries. Pure.

All functions raise `ValueError` on what is malformed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from cri_imaged.layers.tar import fields, sparse
from cri_imaged.layers.tar.entry import Entry, Kind
from cri_imaged.layers.tar.fields import number

LONG_NAME, LONG_LINK, LOCAL, GLOBAL, SPARSE = b"LKxgS"
"""Type flags: GNU's long names, PAX headers, GNU's old sparse files."""
_KINDS = {
    0: Kind.FILE,
    ord("0"): Kind.FILE,
    ord("7"): Kind.FILE,
    SPARSE: Kind.FILE,
    ord("1"): Kind.HARDLINK,
    ord("2"): Kind.SYMLINK,
    ord("3"): Kind.CHARACTER_DEVICE,
    ord("4"): Kind.BLOCK_DEVICE,
    ord("5"): Kind.DIRECTORY,
    ord("6"): Kind.FIFO,
}
_LINKS = (Kind.HARDLINK, Kind.SYMLINK)
_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_XATTR = b"SCHILY.xattr."


class UnknownTypeError(ValueError):
    """An entry of a type that is not supported."""


@dataclass(slots=True)
class Extensions:
    """What extension headers said of the next entry."""

    name: bytes | None = None
    link: bytes | None = None
    local: dict[bytes, bytes] = field(default_factory=dict)

    def take(self, flag: int, body: bytes) -> None:
        """Note an extension header's body. As in containerd, so that an image is the same tree
        everywhere, a second PAX header replaces the first, and a global one, which must be
        well-formed, changes nothing, but parts an entry from what came before it."""
        if flag == LONG_NAME:
            self.name = body.partition(b"\0")[0]
        elif flag == LONG_LINK:
            self.link = body.partition(b"\0")[0]
        elif flag == LOCAL:
            self.local = sparse.folded(fields.pax_records(body))
        else:
            fields.pax_records(body)
            self.clear()

    def clear(self) -> None:
        """Forget what was for one entry."""
        self.name = self.link = None
        self.local = {}


def name(block: bytes) -> bytes:
    """The entry's name as the block alone has it."""
    stop = block.find(b"\0", 0, 100)
    short = block[: stop if stop >= 0 else 100]
    if not block[345]:
        return short
    prefix = b""
    if block[257:263] == b"ustar\0":
        star = block[508:] == b"tar\0"  # star keeps times behind a shorter prefix
        prefix = block[345 : 345 + (131 if star else 155)].partition(b"\0")[0]
    elif block[257:265] == b"ustar  \0":
        prefix = _mistaken_prefix(block)
    return prefix + b"/" + short if prefix else short


def _mistaken_prefix(block: bytes) -> bytes:
    """Before Go 1.8 archive/tar wrote a prefix into GNU headers, where two times are. What is no
    times and is ASCII is such a prefix, as in Go's reader."""
    try:
        number(block[345:357])
        number(block[357:369])
    except ValueError:
        prefix = block[345:500].partition(b"\0")[0]
        return prefix if prefix.isascii() else b""
    return b""


def entry(block: bytes, called: bytes, offset: int, extensions: Extensions | None) -> Entry:
    """The entry that a block of an entry's type makes. `called` is its name without PAX."""
    flag = block[156]
    kind = _KINDS.get(flag)
    if kind is None:
        raise UnknownTypeError(f"type {chr(flag)!r} is not supported")
    mode, uid, gid = _attributes(block[100:124])
    made = Entry(
        called,
        kind,
        mode,
        uid,
        gid,
        _time(block[136:148]),
        number(block[124:136]),
        b"",
        0,
        0,
        offset,
    )
    if kind is not Kind.FILE:
        _complete(made, block)
    if extensions is not None:
        _extend(made, extensions)
    if not flag and made.name.endswith(b"/"):  # how v7 writes a directory
        made.kind = Kind.DIRECTORY
    if made.kind is not Kind.FILE:
        made.size = 0  # such entries have no data, whatever the field says
    elif made.size < 0:
        raise ValueError("negative size")
    return made


def _complete(made: Entry, block: bytes) -> None:
    """Read the fields that only some kinds of entries have."""
    if made.kind in _LINKS:
        made.link = block[157:257].partition(b"\0")[0]
    elif made.kind in _DEVICES:
        made.major, made.minor = number(block[329:337]), number(block[337:345])
        if not (0 <= made.major < 1 << 12 and 0 <= made.minor < 1 << 20):
            raise ValueError(f"device {made.major}:{made.minor} is out of range")


def _extend(made: Entry, extensions: Extensions) -> None:
    """Apply what extension headers said. A PAX record with an empty value lets the header's own
    field stand and GNU's long names win over PAX, both as in Go's reader."""
    xattrs: dict[bytes, bytes] = {}
    sparse_name = b""
    for key, value in extensions.local.items():
        if key.startswith(_XATTR):
            xattrs[_text(key[len(_XATTR) :], "xattr name")] = value
        elif not value:
            continue
        elif key == b"path":
            made.name = _text(value, "path")
        elif key == b"linkpath":
            made.link = _text(value, "linkpath")
        elif key == b"size":
            made.size = fields.decimal(value)
        elif key == b"uid":
            made.uid = fields.owner(fields.decimal(value))
        elif key == b"gid":
            made.gid = fields.owner(fields.decimal(value))
        elif key == b"mtime":
            made.mtime = fields.seconds(value)
        elif key == sparse.NAME:
            sparse_name = _text(value, "name of a sparse file")
    made.name = extensions.name or sparse_name or made.name
    if made.kind in _LINKS:
        made.link = extensions.link or made.link
    made.xattrs = xattrs or None


@functools.lru_cache(maxsize=4096)
def _attributes(part: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid, which many entries share."""
    mode, uid, gid = number(part[:8]), number(part[8:16]), number(part[16:])
    return mode & 0o7777, fields.owner(uid), fields.owner(gid)


@functools.lru_cache(maxsize=4096)
def _time(part: bytes) -> int:
    return fields.in_time(number(part) * 1_000_000_000)


def _text(value: bytes, what: str) -> bytes:
    if b"\0" in value or not value:
        raise ValueError(f"{what} is empty or holds a NUL")
    return value
