"""Programs that are asked something: run, read and ended, however they behave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec

from cri_imaged.shielding import to_the_end

_READ_BYTES = 64 << 10

Argument: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^\0]*$")]
"""What a program can be given: no text with a NUL."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program did."""

    status: int
    """Its exit code; negative: the signal that ended it."""
    out: bytes
    """What it wrote to standard output, as far as it was to be kept."""
    err: bytes
    """As `out`, of standard error. Never shown of a program that is told secrets."""


async def ask(
    command: Sequence[str],
    question: bytes,
    *,
    seconds: float,
    kept: int,
    environ: Mapping[str, str] | None = None,
) -> Ran:
    """Run a program with `question` on its standard input, in a process group of its own, with this
    process' environment unless another is given. Of each output the first `kept` bytes are kept, so
    that a noisy one costs no memory. When it has ended what it started and left behind is killed,
    and not waited for.

    Raises:
        OSError: it cannot be run.
        TimeoutError: it took longer than `seconds`, and was killed.
    """
    out, err = _Output(kept), _Output(kept)
    try:
        process = await _started(command, question, out, err, environ)
        try:
            async with asyncio.timeout(seconds):
                await _ended(process)
            status = process.wait()
            return Ran(status, out.all(), err.all())
        finally:
            await to_the_end(_end(process))
    finally:
        out.close()
        err.close()


async def _started(
    command: Sequence[str],
    question: bytes,
    out: _Output,
    err: _Output,
    environ: Mapping[str, str] | None,
) -> subprocess.Popen[bytes]:
    # A file: a program that does not read from it, or late, holds up no writer.
    asked = os.memfd_create("question", os.MFD_CLOEXEC)

    def start() -> subprocess.Popen[bytes]:
        # Not uvloop: it has a shell run what is no program, to which an empty file is success.
        return subprocess.Popen(
            command,
            stdin=asked,
            stdout=out.writer,
            stderr=err.writer,
            start_new_session=True,
            env=environ,
        )

    try:
        os.pwrite(asked, question, 0)
        begun = asyncio.ensure_future(asyncio.to_thread(start))
        return await to_the_end(begun, undo=lambda: _end(begun.result()))
    finally:
        for fd in (asked, out.writer, err.writer):
            os.close(fd)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    watched = os.pidfd_open(process.pid)
    try:
        loop.add_reader(watched, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await _ended(process)
        process.wait()


class _Output:
    """What a program writes to one pipe. Processes that outlive it may keep the pipe open; nobody
    waits for its end."""

    def __init__(self, kept: int) -> None:
        self._room = kept
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._kept = bytearray()
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def _read(self) -> bool:
        """Take what is there; whether there may be more that is to be kept."""
        with suppress(BlockingIOError):
            if part := os.read(self._reader, _READ_BYTES):
                self._kept += part[: self._room - len(self._kept)]
                return len(self._kept) < self._room
            asyncio.get_running_loop().remove_reader(self._reader)
        return False

    def all(self) -> bytes:
        """All that was written by now, as far as it is kept."""
        while self._read():
            pass
        return bytes(self._kept)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
