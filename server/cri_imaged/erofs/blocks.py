"""The blocks of an image while it is written: data appended, metadata packed between it."""

from __future__ import annotations

import os

from cri_imaged.erofs.format import BLOCK, SLOT

_WINDOW = 1 << 20
"""Bytes at the end that are kept in memory, where metadata is still put."""
_OPEN = 8
"""Blocks of metadata that have room, to choose from."""


class Blocks:
    """An image's file, written in order but for metadata."""

    def __init__(self, fd: int, end: int = 0) -> None:
        """`fd`, open to read and write, stays the caller's; new blocks go to `end`."""
        self._fd = fd
        self._base = end
        self._window = bytearray()
        self._open: list[tuple[int, int]] = []
        """(address, bytes of room behind it)"""

    @property
    def end(self) -> int:
        """Where the next byte goes."""
        return self._base + len(self._window)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write at the end."""
        if len(data) >= _WINDOW:
            self.flush()
            _write(self._fd, data, self._base)
            self._base += len(data)
            return
        self._window += data
        if len(self._window) >= _WINDOW:
            self.flush()

    def skip(self, size: int) -> None:
        """Zeros at the end; where there are many, they take no space."""
        if size < _WINDOW:
            self.append(bytes(size))
            return
        self.flush()
        self._base += size
        os.ftruncate(self._fd, self._base)

    def fill_block(self) -> None:
        """Zeros up to a block's end."""
        self._window += bytes(-self.end % BLOCK)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, at most a block's, inside one block."""
        wanted = -(-size // SLOT) * SLOT
        for number, (address, room) in enumerate(self._open):
            if room >= wanted:
                if room - wanted < SLOT:
                    del self._open[number]
                else:
                    self._open[number] = address + wanted, room - wanted
                return address
        address = self.end
        if address % BLOCK or wanted > BLOCK:
            raise ValueError("metadata in the midst of data")
        self.append(bytes(BLOCK))
        if wanted < BLOCK:
            self._open.append((address + wanted, BLOCK - wanted))
            if len(self._open) > _OPEN:
                self._open.remove(min(self._open, key=lambda block: block[1]))
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
            return bytes(self._window[at : at + size])
        return os.pread(self._fd, size, address)

    def flush(self) -> None:
        """Leave nothing in memory."""
        if self._window:
            _write(self._fd, self._window, self._base)
            self._base += len(self._window)
            self._window = bytearray()


def _write(fd: int, data: bytes | bytearray | memoryview, at: int) -> None:
    with memoryview(data) as rest:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, rest[done:], at + done)
