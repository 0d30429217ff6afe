"""The blocks of an image while it is written: data appended, metadata packed between it."""

from __future__ import annotations

import os

from cri_imaged.erofs.format import BLOCK, SLOT

_WINDOW = 1 << 20
"""Bytes at the end that are kept in memory, where metadata is still put."""
_OPEN = 8
"""Blocks of metadata that have room, to choose from."""


_ZEROS = memoryview(bytes(BLOCK))


class Blocks:
    """An image's file, written in order but for metadata."""

    def __init__(self, fd: int, end: int = 0) -> None:
        """`fd`, open to read and write, stays the caller's; new blocks go to `end`."""
        self._fd = fd
        self.end = end
        """Where the next byte goes."""
        self._base = end
        """Where the window begins."""
        self._window = memoryview(bytearray(_WINDOW))
        self._open: dict[int, int] = {}
        """By its end, the bytes of room before it."""

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write at the end."""
        size = len(data)
        if self.end - self._base + size > _WINDOW:
            self.flush()
            if size > _WINDOW:
                _write(self._fd, data, self.end)
                self._base = self.end = self.end + size
                return
        at = self.end - self._base
        self._window[at : at + size] = data
        self.end += size

    def skip(self, size: int) -> None:
        """Zeros at the end; where there are many, they take no space."""
        if size < _WINDOW:
            self.append(bytes(size))
            return
        self.flush()
        self._base = self.end = self.end + size
        os.ftruncate(self._fd, self.end)

    def fill_block(self) -> None:
        """Zeros up to a block's end."""
        if size := -self.end % BLOCK:
            self.append(_ZEROS[:size])

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, at most a block's, inside one block."""
        wanted = size + -size % SLOT
        for end, room in self._open.items():
            if room >= wanted:
                if room > wanted:
                    self._open[end] = room - wanted
                else:
                    del self._open[end]
                return end - room
        address = self.end
        if address % BLOCK or wanted > BLOCK:
            raise ValueError("metadata in the midst of data")
        self.append(_ZEROS)
        if wanted < BLOCK:
            self._open[self.end] = BLOCK - wanted
            if len(self._open) > _OPEN:
                del self._open[min(self._open, key=self._open.__getitem__)]
        return address

    def place(self, data: bytes) -> int:
        """As `allocate`, for these bytes."""
        address = self.allocate(len(data))
        self.put(address, data)
        return address

    def put(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write in what is there already, inside one block."""
        at = address - self._base
        if at >= 0:
            self._window[at : at + len(data)] = data
        else:
            _write(self._fd, data, address)

    def get(self, address: int, size: int) -> bytes:
        """Read back, inside one block."""
        at = address - self._base
        if at >= 0:
            return bytes(self._window[at : min(at + size, self.end - self._base)])
        return os.pread(self._fd, size, address)

    def flush(self) -> None:
        """Leave nothing in memory."""
        if self.end > self._base:
            _write(self._fd, self._window[: self.end - self._base], self._base)
            self._base = self.end


def _write(fd: int, data: bytes | bytearray | memoryview, at: int) -> None:
    with memoryview(data) as rest:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, rest[done:], at + done)
