"""Where what a registry answers to a reference is kept while it arrives, however slowly: in memory
as long as it is small, else in a file without a name."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cri_imaged.budget import MemoryBudget

_IN_MEMORY_BYTES = 64 << 10


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


def write_anew(spool: BinaryIO, data: bytes) -> None:
    """Have `data` in it and nothing else."""
    spool.seek(0)
    spool.truncate()
    spool.write(data)
