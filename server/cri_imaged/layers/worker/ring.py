"""What the decoder of a layer hands to its writer: chunks, in shared memory.

The memory has slots of one chunk each; two pipes say which are filled (with how many bytes) and
which are free again. The writer copies a chunk out before it looks at it, so that whoever has taken
over the decoder cannot change it afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cri_imaged.layers.decode.members import CHUNK

_SLOTS = 4
_FIXED_SIZE = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
"""Memory written beyond it would be in no limit of the process that wrote it."""
_MESSAGE = struct.Struct("<I")
_END = 0
_ALIVE = 1 << 30
_FAILED = 1 << 31
"""With the length of the failure in the next slot."""
ALIVE = _MESSAGE.pack(_ALIVE)
"""What the decoder writes to `filled` now and then, to show that it runs."""


class BrokenRingError(Exception):
    """The decoder ended, or does not run any more, before it had said all."""


class DecoderFailedError(Exception):
    """The decoder says why it could not go on; `failure` is an encoded `protocol.Failure`."""

    def __init__(self, failure: bytes) -> None:
        super().__init__()
        self.failure = failure


class Ring(NamedTuple):
    """The descriptors of one ring."""

    memory: int
    filled_in: int
    filled_out: int
    freed_in: int
    freed_out: int

    @classmethod
    def make(cls) -> Ring:
        """A new, empty ring. Raises `OSError`, and then leaves nothing open."""
        with contextlib.ExitStack() as undo:
            memory = os.memfd_create("decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, memory)
            os.ftruncate(memory, _SLOTS * CHUNK)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _FIXED_SIZE)
            filled = os.pipe2(os.O_CLOEXEC)
            for fd in filled:
                undo.callback(os.close, fd)
            ring = cls(memory, *filled, *os.pipe2(os.O_CLOEXEC))
            undo.pop_all()
        return ring

    @classmethod
    def of_decoder(cls, memory: int, filled_out: int, freed_in: int) -> Ring:
        """One of which only what the decoder keeps is open here."""
        return cls(memory, -1, filled_out, freed_in, -1)

    def decoders(self) -> list[int]:
        """The descriptors that the decoder keeps."""
        return [self.memory, self.filled_out, self.freed_in]

    def writers(self) -> list[int]:
        """The descriptors that the writer keeps."""
        return [self.memory, self.filled_in, self.freed_out]

    def close(self) -> None:
        """Close all of them."""
        for fd in self:
            os.close(fd)


def fill(ring: Ring, stream: Iterable[bytes]) -> None:
    """Put all of `stream` into the ring, and its end.

    Raises:
        BrokenPipeError: the writer has ended.
    """
    with mmap.mmap(ring.memory, _SLOTS * CHUNK) as memory:
        number = 0
        for chunk in stream:
            for start in range(0, len(chunk), CHUNK):
                part = chunk[start : start + CHUNK]
                at = _free_slot(ring, number) * CHUNK
                memory[at : at + len(part)] = part
                os.write(ring.filled_out, _MESSAGE.pack(len(part)))
                number += 1
        os.write(ring.filled_out, _MESSAGE.pack(_END))


def fail(ring: Ring, failure: bytes) -> None:
    """Say in place of the end why there is none."""
    # Behind all chunks: the writer may be in one before.
    os.write(ring.filled_out, _MESSAGE.pack(_FAILED | len(failure)) + failure)


class Flow:
    """Whether anything comes out of a ring."""

    def __init__(self) -> None:
        self.waits = False
        self.chunks = 0
        self._seen = 0

    def has_stopped(self) -> bool:
        """Whether it was only waited for a chunk since this was asked last."""
        seen, self._seen = self._seen, self.chunks
        return self.waits and seen == self._seen


def drain(ring: Ring, seconds: float, flow: Flow) -> Iterator[bytes]:
    """The chunks of the ring until its end; `flow` is told of each.

    Raises:
        DecoderFailedError
        BrokenRingError: its other side ended, or showed no life for so many seconds.
    """
    alive = select.poll()
    alive.register(ring.filled_in, select.POLLIN)
    with mmap.mmap(ring.memory, _SLOTS * CHUNK, prot=mmap.PROT_READ) as memory:
        number = 0
        while True:
            flow.waits = True
            (message,) = _MESSAGE.unpack(_read(ring.filled_in, _MESSAGE.size, alive, seconds))
            if message == _ALIVE:
                continue
            flow.waits = False
            flow.chunks += 1
            if message == _END:
                return
            if message & _FAILED:
                length = message & ~_FAILED
                if length > select.PIPE_BUF:
                    raise BrokenRingError
                raise DecoderFailedError(_read(ring.filled_in, length, alive, seconds))
            if message > CHUNK:
                raise BrokenRingError
            at = number % _SLOTS * CHUNK
            yield memory[at : at + message]
            with contextlib.suppress(BrokenPipeError):  # it has said all, and ended
                os.write(ring.freed_out, b"\0")
            number += 1


def _free_slot(ring: Ring, number: int) -> int:
    if number >= _SLOTS and not os.read(ring.freed_in, 1):
        raise BrokenPipeError
    return number % _SLOTS


def _read(fd: int, size: int, alive: select.poll, seconds: float) -> bytes:
    message = b""
    while len(message) < size:
        if not alive.poll(1000 * seconds):
            raise BrokenRingError
        part = os.read(fd, size - len(message))
        if not part:
            raise BrokenRingError
        message += part
    return message
