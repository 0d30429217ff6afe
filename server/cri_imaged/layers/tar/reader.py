"""The tar reader: a state machine that turns chunks of any size into entries and their data.

Understands v7, ustar, GNU and PAX archives (POSIX.1-2017 pax; GNU tar manual, "Basic Tar
Format"). Knows nothing of disks, layers or compression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from cri_imaged.errors import CorruptContentError, LimitExceededError, UnsupportedContentError
from cri_imaged.layers.tar import headers, sparse
from cri_imaged.layers.tar.entry import Entry, shown
from cri_imaged.layers.tar.fields import number, sums_up
from cri_imaged.layers.tar.headers import Extensions
from cri_imaged.limits import Limits

BLOCK = 512
_ZEROS = bytes(BLOCK)
_EXTENSIONS = frozenset(
    {headers.LONG_NAME, headers.LONG_LINK, headers.LOCAL, headers.GLOBAL},
)


class TarReader:
    """Feed it the archive in order, then `finish`.

    Every malformed header and every truncation raises `CorruptContentError` with the entry's
    name and the offset in the uncompressed stream. What follows the end marker is accepted.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.entries = 0
        """Entries read so far."""
        self._offset = 0  # of the present chunk
        self._held = b""  # of a header, at a chunk's end
        self._left = 0  # bytes of data, or of an extension's body, still to come
        self._padding = 0  # bytes to pass over after those
        self._zero_blocks = 0
        self._at = 0  # offset and name of the present header, for messages
        self._name = b""
        self._flag = 0  # of the extension header whose body comes; SPARSE for a map
        self._body = bytearray()
        self._pending = 0  # bytes of extension headers since the last entry
        self._globals = 0
        self._extensions = Extensions()
        self._map: sparse.MapReader | None = None  # of the entry that waits for it
        self._map_bytes = 0

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
        while at < end and self._zero_blocks < 2:
            if self._left or self._padding:
                stop = min(at + self._left, end)
                self._left -= stop - at
                part = view[at:stop]
                at = min(stop + self._padding, end) if not self._left else stop
                self._padding -= at - stop
                if not self._flag:
                    if part:
                        yield None, part
                elif (waiting := self._collect(part)) is not None:
                    yield waiting, view[:0]
                continue
            block = chunk[at : at + BLOCK - len(self._held)]
            at += len(block)
            if len(block) < BLOCK:
                block = self._held = self._held + block
                if len(block) < BLOCK:
                    break
                self._held = b""
            self._at = self._offset + at - BLOCK
            entry = self._header(block)
            if entry is None:
                continue
            stop = at + self._left
            if stop + self._padding <= end:
                yield entry, view[at:stop]
                at = stop + self._padding
                self._left = self._padding = 0
            else:
                stop = min(stop, end)
                self._left -= stop - at
                yield entry, view[at:stop]
                at = stop
        self._offset += end

    def finish(self) -> bytes:
        """Say that no more comes. Returns the last entry's name where no end marker follows it, as
        some writers leave it out, and what fills the last block up: the archive may be cut off
        there. A stream of no bytes at all is an empty archive.

        Raises:
            CorruptContentError: the archive ends within an entry.
        """
        if self._left:
            self._corrupt(f"truncated at offset {self._offset}, within its data")
        if self._held:
            self._corrupt(f"truncated at offset {self._offset}, within the header after it")
        if self._pending:
            self._corrupt(f"truncated at offset {self._offset}, after an extension header")
        return b"" if self._zero_blocks else self._name

    def _header(self, block: bytes) -> Entry | None:
        """Read a header block; set out how much data and padding follow it."""
        if block[0] == 0 and block == _ZEROS:
            if self._pending:
                self._corrupt("the archive ends after an extension header")
            self._zero_blocks += 1
            return None
        called = headers.name(block)
        self._name = self._extensions.name or called
        if self._zero_blocks:
            self._corrupt("a lone block of zeros before it, in mid-archive")
        try:
            if not sums_up(block):
                raise ValueError("its checksum is wrong")
            flag = block[156]
            if flag in _EXTENSIONS:
                self._begin_extension(flag, number(block[124:136]))
                return None
            entry = headers.entry(
                block, called, self._at, self._extensions if self._pending else None
            )
            self._name = entry.name
            self.entries += 1
            waiting = None
            if flag == headers.SPARSE or self._extensions.local:
                waiting = sparse.begin(entry, block, self._extensions.local)
        except headers.UnknownTypeError as error:
            raise UnsupportedContentError(self._message(str(error))) from None
        except ValueError as error:
            self._corrupt(f"malformed header: {error}")
        self._check_limits(entry)
        if self._pending:
            self._pending = 0
            self._extensions.clear()
        if waiting is not None:
            self._begin_map(waiting)
            return None
        self._begin_data(entry)
        return entry

    def _check_limits(self, entry: Entry) -> None:
        limits = self._limits
        if self.entries > limits.layer_entries:
            self._exceeded(f"the layer has more than {limits.layer_entries} (layer_entries)")
        if len(entry.name) > limits.path_bytes or len(entry.link) > limits.path_bytes:
            self._exceeded(f"a path longer than {limits.path_bytes} bytes (path_bytes)")
        if entry.size > limits.layer_bytes or entry.length > limits.layer_bytes:
            size = max(entry.size, entry.length)
            self._exceeded(f"it has {size} bytes, limit {limits.layer_bytes} (layer_bytes)")

    def _begin_extension(self, flag: int, size: int) -> None:
        if size < 0:
            raise ValueError("negative size")
        total = BLOCK + size
        if flag == headers.GLOBAL:
            self._globals += 1
        else:
            self._pending += total
            total = self._pending
        limit = self._limits.pax_header_bytes
        if total > limit or self._globals > limit:
            self._exceeded(f"extension headers over the limit of {limit} bytes (pax_header_bytes)")
        self._await(flag, size)
        if not size:
            self._collect(memoryview(b""))

    def _begin_data(self, entry: Entry) -> None:
        self._left = entry.size
        self._padding = -entry.size % BLOCK

    def _await(self, flag: int, size: int) -> None:
        self._flag = flag
        self._left = size
        self._padding = -size % BLOCK

    def _collect(self, part: memoryview) -> Entry | None:
        """Keep part of an extension's body or of a sparse map, and act on it once it is whole.
        The entry that waited for its map, once that is complete."""
        if self._left or self._body:
            self._body += part
            if self._left:
                return None
            part = memoryview(bytes(self._body))
            self._body.clear()
        flag, body = self._flag, bytes(part)
        self._flag = 0
        try:
            if flag == headers.SPARSE:
                return self._continue_map(body)
            self._extensions.take(flag, body)
        except ValueError as error:
            self._corrupt(f"malformed header: {error}")
        return None

    def _begin_map(self, reader: sparse.MapReader) -> None:
        self._map = reader
        self._map_bytes = 0
        self._await(headers.SPARSE, BLOCK)

    def _continue_map(self, block: bytes) -> Entry | None:
        assert self._map is not None
        self._map_bytes += BLOCK
        if self._map_bytes > self._limits.pax_header_bytes:
            limit = self._limits.pax_header_bytes
            self._exceeded(f"a sparse map over the limit of {limit} bytes (pax_header_bytes)")
        if not self._map.feed(block):
            self._await(headers.SPARSE, BLOCK)
            return None
        entry, self._map = self._map.entry, None
        self._begin_data(entry)
        return entry

    def _message(self, what: str) -> str:
        return f"layer archive: entry {shown(self._name)} at offset {self._at}: {what}"

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptContentError(self._message(what))

    def _exceeded(self, what: str) -> NoReturn:
        raise LimitExceededError(self._message(what))
