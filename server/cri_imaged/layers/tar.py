"""The tar reader: a state machine that turns chunks of any size into entries and their data.

Understands v7, ustar, GNU and PAX archives (POSIX.1-2017 pax; GNU tar manual, "Basic Tar
Format"). Knows nothing of disks, layers or compression.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NoReturn

from cri_imaged.errors import CorruptContentError, LimitExceededError, UnsupportedContentError
from cri_imaged.layers import fields
from cri_imaged.layers.entry import Entry, Kind, shown
from cri_imaged.limits import Limits

BLOCK = 512
_ZEROS = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_EXTENSIONS = frozenset({b"x", b"g", b"L", b"K"})
_XATTR = b"SCHILY.xattr."
_INHERITED = frozenset({b"path", b"linkpath", b"uid", b"gid", b"mtime"})
"""What a global PAX header may set; an xattr or a size for all entries makes no sense."""
_ID_LIMIT = (1 << 32) - 1  # all ones means "no change" to chown
_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


class TarReader:
    """Feed it the archive in order, then `finish`.

    Every malformed header and every truncation raises `CorruptContentError` with the entry's
    name and the offset in the uncompressed stream. What follows the end marker is accepted.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.entries = 0
        self._offset = 0
        self._held = b""
        self._left = 0
        self._padding = 0
        self._zero_blocks = 0
        self._at = 0
        self._name = b""
        self._extension = b""
        self._body = bytearray()
        self._pending = 0
        self._long: dict[bytes, bytes] = {}
        self._local: dict[bytes, bytes] = {}
        self._global: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> Iterator[Entry | memoryview]:
        """Read on. Yields each entry, and after a FILE its data in non-empty views of `chunk`,
        `Entry.size` bytes in all. To be exhausted before the next call.

        Raises:
            CorruptContentError, UnsupportedContentError, LimitExceededError
        """
        at, end, base = 0, len(chunk), self._offset
        view = memoryview(chunk)
        while at < end:
            if self._left:
                stop = min(at + self._left, end)
                self._left -= stop - at
                part = view[at:stop]
                at = stop
                if not self._extension:
                    yield part
                else:
                    self._body += part
                    if not self._left:
                        self._extend()
            elif self._padding:
                step = min(self._padding, end - at)
                self._padding -= step
                at += step
            elif self._zero_blocks == 2:
                break
            else:
                block = chunk[at : at + BLOCK - len(self._held)]
                at += len(block)
                if len(block) < BLOCK:
                    block = self._held = self._held + block
                    if len(block) < BLOCK:
                        break
                    self._held = b""
                self._at = base + at - BLOCK
                entry = self._header(block)
                if entry is not None:
                    yield entry
        self._offset = base + end

    def finish(self) -> None:
        """Say that no more comes. A stream of no bytes at all is an empty archive.

        Raises:
            CorruptContentError: the archive is not at its end.
        """
        if self._held:
            self._at = self._offset - len(self._held)
            self._corrupt(f"truncated at offset {self._offset}, within a header")
        if self._left or self._padding:
            self._corrupt(f"truncated at offset {self._offset}, within an entry's data")
        if self._pending:
            self._corrupt("ends after an extension header, without the entry it speaks of")
        if not self._zero_blocks and self._offset:
            self._corrupt(f"truncated at offset {self._offset}: there is no end marker")

    def _header(self, block: bytes) -> Entry | None:
        if block[0] == 0 and block == _ZEROS:
            if self._pending:
                self._corrupt("ends after an extension header, without the entry it speaks of")
            self._zero_blocks += 1
            return None
        if self._zero_blocks:
            self._corrupt("a lone block of zeros in mid-archive")
        (
            name,
            mode,
            uid,
            gid,
            size,
            mtime,
            checksum,
            flag,
            link,
            magic,
            major,
            minor,
            prefix,
        ) = _HEADER.unpack(block)
        name = name.partition(b"\0")[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            if block[508:] == b"tar\0":  # star keeps times behind a shorter prefix
                prefix = prefix[:131]
            name = prefix.partition(b"\0")[0] + b"/" + name
        self._name = self._long.get(b"L", name)
        self._check(block, checksum)
        number = fields.number
        try:
            length = number(size)
            if flag in _EXTENSIONS:
                self._begin_extension(flag, length)
                return None
            kind = _KINDS.get(flag)
            if kind is None:
                self._unsupported(flag)
            self._count()
            entry = Entry(
                self._name,
                kind,
                number(mode) & 0o7777,
                number(uid),
                number(gid),
                number(mtime) * 1_000_000_000,
                length,
                self._long.get(b"K") or link.partition(b"\0")[0],
                number(major) if kind in _DEVICES else 0,
                number(minor) if kind in _DEVICES else 0,
                self._at,
            )
            if self._local or self._global:
                self._override(entry)
            self._validate(entry, flag)
        except ValueError as error:
            self._corrupt(f"malformed header: {error}")
        if self._pending:
            self._pending = 0
            self._long, self._local = {}, {}
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        return entry

    def _check(self, block: bytes, field: bytes) -> None:
        try:
            expected = fields.number(field)
        except ValueError:
            expected = -1
        if expected not in (fields.checksum(block), fields.signed_checksum(block)):
            self._corrupt("malformed header: its checksum is wrong")

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._limits.layer_entries:
            raise LimitExceededError(
                f"layer holds more than {self._limits.layer_entries} entries (layer_entries)"
            )

    def _begin_extension(self, flag: bytes, size: int) -> None:
        if size < 0:
            raise ValueError("negative size")
        if flag == b"g":
            self._count()
            total = size
        else:
            self._pending += BLOCK + size
            total = self._pending
        if total > self._limits.pax_header_bytes:
            raise LimitExceededError(
                f"layer: extension headers of {total} bytes before the entry at offset {self._at}, "
                f"limit {self._limits.pax_header_bytes} (pax_header_bytes)"
            )
        self._extension = flag
        self._left = size
        self._padding = -size % BLOCK
        if not size:
            self._extend()

    def _extend(self) -> None:
        flag, body = self._extension, bytes(self._body)
        self._extension, self._body = b"", bytearray()
        if flag in b"LK":
            self._long[flag] = body.partition(b"\0")[0]
            return
        try:
            records = fields.pax_records(body)
        except ValueError as error:
            self._corrupt(f"malformed header: {error}")
        if flag == b"x":
            self._local.update(records)
            self._name = self._local.get(b"path") or self._name
        else:
            self._global.update((key, value) for key, value in records if key in _INHERITED)

    def _override(self, entry: Entry) -> None:
        """Apply PAX records. An empty value lets the header's own field stand, as in Go's reader
        (POSIX: it deletes what earlier headers said)."""
        xattrs: dict[bytes, bytes] = {}
        for key, value in (self._global | self._local).items():
            if key.startswith(_XATTR):
                xattrs[_text(key[len(_XATTR) :], "xattr name")] = value
            elif key.startswith(b"GNU.sparse."):
                self._unsupported(b"S")
            elif not value:
                continue
            elif key == b"path":
                if b"L" not in self._long:
                    entry.name = self._name = _text(value, "path")
            elif key == b"linkpath":
                if b"K" not in self._long:
                    entry.link = _text(value, "linkpath")
            elif key == b"size":
                entry.size = fields.decimal(value)
            elif key == b"uid":
                entry.uid = fields.decimal(value)
            elif key == b"gid":
                entry.gid = fields.decimal(value)
            elif key == b"mtime":
                entry.mtime = fields.seconds(value)
        entry.xattrs = xattrs or None

    def _validate(self, entry: Entry, flag: bytes) -> None:
        if flag == b"\0" and entry.name.endswith(b"/"):  # how v7 writes a directory
            entry.kind = Kind.DIRECTORY
        if entry.size < 0:
            raise ValueError("negative size")
        if entry.kind is not Kind.FILE:
            entry.size = 0  # such entries have no data, whatever the field says
        if not (0 <= entry.uid < _ID_LIMIT and 0 <= entry.gid < _ID_LIMIT):
            raise ValueError(f"owner {entry.uid}:{entry.gid} is out of range")
        if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
            raise ValueError(f"device {entry.major}:{entry.minor} is out of range")
        fields.in_time(entry.mtime)
        limit = self._limits.path_bytes
        if len(entry.name) > limit or len(entry.link) > limit:
            raise LimitExceededError(
                f"layer: entry {shown(entry.name)} at offset {entry.offset}: "
                f"a path longer than {limit} bytes (path_bytes)"
            )
        if entry.size > self._limits.layer_bytes:
            raise LimitExceededError(
                f"layer: entry {shown(entry.name)} at offset {entry.offset} has {entry.size} bytes,"
                f" limit {self._limits.layer_bytes} (layer_bytes)"
            )

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptContentError(
            f"layer archive: {what} (entry {shown(self._name)} at offset {self._at})"
        )

    def _unsupported(self, flag: bytes) -> NoReturn:
        what = "a sparse file" if flag == b"S" else f"unknown type {flag!r}"
        raise UnsupportedContentError(
            f"layer archive: entry {shown(self._name)} at offset {self._at}: {what} "
            "is not supported"
        )


def _text(value: bytes, what: str) -> bytes:
    if b"\0" in value or not value:
        raise ValueError(f"{what} is empty or holds a NUL")
    return value
