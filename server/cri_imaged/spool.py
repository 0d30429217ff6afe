"""Where what a stranger sends is kept while it arrives, however slowly: in memory as long as it is
small, else in a file without a name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from cri_imaged.budget import MemoryBudget
from cri_imaged.disk import on_disk
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.shielding import to_the_end

_IN_MEMORY_BYTES = 64 << 10
_WRITTEN_AT_ONCE = 64 << 10
"""Bytes: a peer may send them one by one, and each turn of a thread has its cost."""


@dataclass(frozen=True, slots=True)
class Spools:
    """Makes them. `memory` is what they are read within."""

    memory: MemoryBudget
    directory: Path | None
    """None: the system's for temporary files."""

    def new(self) -> BinaryIO:
        """An empty one. Whoever has it last closes it, in a thread."""
        folder = str(self.directory) if self.directory is not None else None
        spool = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=folder)  # noqa: SIM115
        return cast(BinaryIO, spool)


def size_of(spool: BinaryIO) -> int:
    """Bytes in it."""
    return spool.seek(0, os.SEEK_END)


def read(spool: BinaryIO) -> bytes:
    """All of it."""
    spool.seek(0)
    return spool.read()


async def content(spool: BinaryIO) -> bytes:
    """As `read`, from the event loop."""
    if _is_in_memory(size_of(spool)):
        return read(spool)
    return await to_the_end(on_disk(partial(read, spool)))


def write_anew(spool: BinaryIO, data: bytes) -> None:
    """Have `data` in it and nothing else."""
    spool.seek(0)
    spool.truncate()
    spool.write(data)


async def save(chunks: AsyncIterable[bytes], into: BinaryIO) -> int:
    """Write all that comes, and tell how many bytes it was. Raises `NoSpaceError`, and what
    `chunks` does."""
    size = 0
    held = bytearray()
    async for chunk in chunks:
        size += len(chunk)
        held += chunk
        if len(held) >= _WRITTEN_AT_ONCE:
            await _write(into, bytes(held))
            held.clear()
    await _write(into, bytes(held))
    return size


async def close(spool: BinaryIO) -> None:
    """Let go of it. Doing it again changes nothing."""
    if spool.closed or _is_in_memory(size_of(spool)):
        spool.close()
    else:
        await to_the_end(on_disk(spool.close))


async def _write(into: BinaryIO, data: bytes) -> None:
    if _is_in_memory(into.tell() + len(data)):
        into.write(data)
        return
    with told_as_no_space("answer of a registry"):
        await to_the_end(on_disk(partial(into.write, data)))


def _is_in_memory(size: int) -> bool:
    """A thread costs more than what is done to so little."""
    return size <= _IN_MEMORY_BYTES
