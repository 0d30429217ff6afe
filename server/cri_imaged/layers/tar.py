"""The tar reader: a state machine that turns chunks of any size into entries and their data.

Understands v7, ustar, GNU and PAX archives (POSIX.1-2017 pax; GNU tar manual, "Basic Tar
Format"). Knows nothing of disks, layers or compression.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NoReturn

from cri_imaged.errors import CorruptContentError, LimitExceededError, UnsupportedContentError
from cri_imaged.layers import fields
from cri_imaged.layers.entry import Entry, Kind, shown
from cri_imaged.layers.fields import checksum, number
from cri_imaged.limits import Limits

BLOCK = 512
_ZEROS = bytes(BLOCK)
_KINDS = {
    0: Kind.FILE,
    ord("0"): Kind.FILE,
    ord("7"): Kind.FILE,
    ord("1"): Kind.HARDLINK,
    ord("2"): Kind.SYMLINK,
    ord("3"): Kind.CHARACTER_DEVICE,
    ord("4"): Kind.BLOCK_DEVICE,
    ord("5"): Kind.DIRECTORY,
    ord("6"): Kind.FIFO,
}
_LINKS = (Kind.HARDLINK, Kind.SYMLINK)
_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_EXTENSIONS = b"xgLK"
_GLOBAL = ord("g")
_SPARSE = ord("S")
_XATTR = b"SCHILY.xattr."
_INHERITED = frozenset({b"path", b"linkpath", b"uid", b"gid", b"mtime"})
"""What a global PAX header may set; an xattr or a size for all entries makes no sense."""


class TarReader:
    """Feed it the archive in order, then `finish`.

    Every malformed header and every truncation raises `CorruptContentError` with the entry's
    name and the offset in the uncompressed stream. What follows the end marker is accepted.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.entries = 0
        self.globals = 0
        self._offset = 0
        self._held = b""
        self._left = 0
        self._padding = 0
        self._zero_blocks = 0
        self._at = 0
        self._name = b""
        self._extension = 0
        self._body = bytearray()
        self._pending = 0
        self._long: dict[bytes, bytes] = {}
        self._local: dict[bytes, bytes] = {}
        self._global: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> Iterator[tuple[Entry | None, memoryview]]:
        """Read on. Yields each entry with what `chunk` holds of its data, and with None what it
        holds of the data of an entry before it. A FILE's data are `Entry.size` bytes in all. To
        be exhausted before the next call.

        Raises:
            CorruptContentError, UnsupportedContentError, LimitExceededError
        """
        view = memoryview(chunk)
        end = len(chunk)
        at = 0
        if self._left:
            at = min(self._left, end)
            self._left -= at
            if not self._extension:
                yield None, view[:at]
            else:
                self._collect(view[:at])
        skip = min(self._padding, end - at)
        self._padding -= skip
        at += skip
        while at < end and self._zero_blocks < 2:
            block = chunk[at : at + BLOCK - len(self._held)]
            at += len(block)
            if len(block) < BLOCK:
                block = self._held = self._held + block
                if len(block) < BLOCK:
                    break
                self._held = b""
            self._at = self._offset + at - BLOCK
            entry = self._header(block)
            begin = at
            at += self._left
            if at <= end:
                self._left = 0
                stop = at
                at += self._padding
                if at <= end:
                    self._padding = 0
                else:
                    self._padding = at - end
            else:
                self._left = at - end
                stop = end
            if entry is not None:
                yield entry, view[begin:stop]
            elif self._extension:
                self._collect(view[begin:stop])
        self._offset += end

    def finish(self) -> None:
        """Say that no more comes. A stream of no bytes at all is an empty archive.

        Raises:
            CorruptContentError: the archive is not at its end.
        """
        if self._held:
            self._name = b""
            self._at = self._offset - len(self._held)
            self._corrupt(f"truncated at offset {self._offset}, within a header")
        if self._left or self._padding:
            self._corrupt(f"truncated at offset {self._offset}, within an entry's data")
        if self._pending:
            self._corrupt("ends after an extension header, without the entry it speaks of")
        if not self._zero_blocks and self._offset:
            self._corrupt(f"truncated at offset {self._offset}: there is no end marker")

    def _header(self, block: bytes) -> Entry | None:
        """Read a header block and set out how much data and padding follow it."""
        stop = block.find(b"\0", 0, 100)
        if stop == 0 and block == _ZEROS:
            self._end()
            return None
        name = block[: stop if stop >= 0 else 100]
        if block[345] and block[257:263] == b"ustar\0":
            name = _prefix(block) + b"/" + name
        self._name = self._long.get(b"L", name)
        if self._zero_blocks:
            self._corrupt("a lone block of zeros in mid-archive")
        try:
            if number(block[148:156]) != checksum(block):
                _check_signed(block)
            size = number(block[124:136])
            flag = block[156]
            kind = _KINDS.get(flag)
            if kind is None:
                if flag not in _EXTENSIONS:
                    self._unsupported(flag)
                self._begin_extension(flag, size)
                return None
            mode, uid, gid = _attributes(block[100:124])
            entry = Entry(
                self._name, kind, mode, uid, gid, _time(block[136:148]), size, b"", 0, 0, self._at
            )
            self.entries += 1
            if kind is not Kind.FILE:
                self._complete(entry, block)
            if self._local or self._global:
                self._override(entry)
            if flag == 0 and entry.name.endswith(b"/"):  # how v7 writes a directory
                entry.kind = Kind.DIRECTORY
            if entry.kind is not Kind.FILE:
                entry.size = 0  # such entries have no data, whatever the field says
            elif entry.size < 0:
                raise ValueError("negative size")
        except ValueError as error:
            self._corrupt(f"malformed header: {error}")
        if self._pending:
            self._pending = 0
            self._long, self._local = {}, {}
        self._check_limits(entry)
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        return entry

    def _end(self) -> None:
        if self._pending:
            self._corrupt("ends after an extension header, without the entry it speaks of")
        self._zero_blocks += 1

    def _complete(self, entry: Entry, block: bytes) -> None:
        """Read the fields that only some kinds of entries have."""
        if entry.kind in _LINKS:
            entry.link = self._long.get(b"K") or block[157:257].partition(b"\0")[0]
        elif entry.kind in _DEVICES:
            entry.major, entry.minor = number(block[329:337]), number(block[337:345])
            if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
                raise ValueError(f"device {entry.major}:{entry.minor} is out of range")

    def _check_limits(self, entry: Entry) -> None:
        limits = self._limits
        if self.entries > limits.layer_entries:
            raise LimitExceededError(
                f"layer holds more than {limits.layer_entries} entries (layer_entries)"
            )
        if len(entry.name) > limits.path_bytes or len(entry.link) > limits.path_bytes:
            raise LimitExceededError(
                f"layer: entry {shown(entry.name)} at offset {entry.offset}: "
                f"a path longer than {limits.path_bytes} bytes (path_bytes)"
            )
        if entry.size > limits.layer_bytes:
            raise LimitExceededError(
                f"layer: entry {shown(entry.name)} at offset {entry.offset} has {entry.size} bytes,"
                f" limit {limits.layer_bytes} (layer_bytes)"
            )

    def _begin_extension(self, flag: int, size: int) -> None:
        if size < 0:
            raise ValueError("negative size")
        if flag == _GLOBAL:
            self.globals += 1
            total = BLOCK + size + sum(map(len, self._global.values()))
        else:
            self._pending += BLOCK + size
            total = self._pending
        if total > self._limits.pax_header_bytes:
            raise LimitExceededError(
                f"layer: extension headers of {total} bytes before the entry at offset {self._at}, "
                f"limit {self._limits.pax_header_bytes} (pax_header_bytes)"
            )
        if self.globals > self._limits.layer_entries:
            raise LimitExceededError(
                f"layer holds more than {self._limits.layer_entries} headers (layer_entries)"
            )
        self._extension = flag
        self._left = size
        self._padding = -size % BLOCK

    def _collect(self, part: memoryview) -> None:
        """Keep part of an extension's body; act on it once it is whole."""
        self._body += part
        if self._left:
            return
        flag, body = self._extension, bytes(self._body)
        self._extension, self._body = 0, bytearray()
        if flag in b"LK":
            self._long[bytes([flag])] = body.partition(b"\0")[0]
            return
        try:
            records = fields.pax_records(body)
        except ValueError as error:
            self._corrupt(f"malformed header: {error}")
        if flag == _GLOBAL:
            self._global.update((key, value) for key, value in records if key in _INHERITED)
        else:
            self._local.update(records)
            self._name = self._local.get(b"path") or self._name

    def _override(self, entry: Entry) -> None:
        """Apply PAX records. An empty value lets the header's own field stand, as in Go's reader
        (POSIX: it deletes what earlier headers said)."""
        xattrs: dict[bytes, bytes] = {}
        for key, value in (self._global | self._local).items():
            if key.startswith(_XATTR):
                xattrs[_text(key[len(_XATTR) :], "xattr name")] = value
            elif key.startswith(b"GNU.sparse."):
                self._unsupported(_SPARSE)
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
                entry.uid = fields.owner(fields.decimal(value))
            elif key == b"gid":
                entry.gid = fields.owner(fields.decimal(value))
            elif key == b"mtime":
                entry.mtime = fields.seconds(value)
        entry.xattrs = xattrs or None

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptContentError(
            f"layer archive: {what} (entry {shown(self._name)} at offset {self._at})"
        )

    def _unsupported(self, flag: int) -> NoReturn:
        what = "a sparse file" if flag == _SPARSE else f"unknown type {chr(flag)!r}"
        raise UnsupportedContentError(
            f"layer archive: entry {shown(self._name)} at offset {self._at}: {what} "
            "is not supported"
        )


@functools.lru_cache(maxsize=4096)
def _attributes(part: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid, which many entries share."""
    mode, uid, gid = number(part[:8]), number(part[8:16]), number(part[16:])
    return mode & 0o7777, fields.owner(uid), fields.owner(gid)


@functools.lru_cache(maxsize=4096)
def _time(field: bytes) -> int:
    return fields.in_time(number(field) * 1_000_000_000)


def _prefix(block: bytes) -> bytes:
    star = block[508:] == b"tar\0"  # star keeps times behind a shorter prefix
    return block[345 : 345 + (131 if star else 155)].partition(b"\0")[0]


def _check_signed(block: bytes) -> None:
    if number(block[148:156]) != fields.signed_checksum(block):
        raise ValueError("its checksum is wrong")


def _text(value: bytes, what: str) -> bytes:
    if b"\0" in value or not value:
        raise ValueError(f"{what} is empty or holds a NUL")
    return value
