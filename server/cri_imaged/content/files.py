"""Files of a store, read and written whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


def read(file: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes. Where the disk does not give them back the file ends: what is there has
    other bytes than it should."""
    try:
        return file.read(size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def spool(path: Path, data: bytes) -> None:
    """Write a new file."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def size(path: Path) -> int:
    """0 where there is no file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def unlink(paths: Iterable[Path]) -> None:
    """Remove files that may be gone."""
    for path in paths:
        path.unlink(missing_ok=True)
