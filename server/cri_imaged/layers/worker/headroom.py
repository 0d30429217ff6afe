"""A layer is not written where the disk has no room beside its reserve: its worker waits. Which
pull has to end, where none comes, is the daemon's to decide: it sees all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

from cri_imaged.errors import NoSpaceError
from cri_imaged.full_disk import inodes_left, leave_free
from cri_imaged.limits import KIB, MIB

_STEP = range(64 * KIB, 4 * MIB)
"""After so many bytes of a layer's stream the disk is looked at again."""
_CAUTION = 16
"""How much more than its stream a layer may take (a file of a byte takes a block), and workers
beside."""
_ENTRY = 512
"""Bytes of the stream that an entry takes at least."""
_LOOK_SECONDS = 0.01
_PATIENCE = 10.0
"""Seconds that a worker waits for room."""


def paced(stream: Iterable[bytes], directory: int, reserve: int) -> Iterator[bytes]:
    """A layer's stream, each piece when the file system of an open `directory` has room for it
    beside `reserve` bytes and the inodes that are kept.

    Raises:
        NoSpaceError: none came in `_PATIENCE`.
    """
    granted = 0
    for chunk in stream:
        while chunk:
            if not granted:
                _wait(directory, reserve)
                granted = step(os.fstatvfs(directory), reserve)
            part, chunk = chunk[:granted], chunk[granted:]
            granted -= len(part)
            yield part


def step(disk: os.statvfs_result, reserve: int) -> int:
    """Bytes of a stream that may be written before the disk is looked at again."""
    room = disk.f_bavail * disk.f_frsize - reserve
    size = min(max(room // _CAUTION, _STEP.start), _STEP.stop)
    inodes = inodes_left(disk)
    return size if inodes is None else min(size, _ENTRY * max(1, inodes // _CAUTION))


def _wait(directory: int, reserve: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            leave_free(directory, reserve)
        except NoSpaceError:
            if time.monotonic() > until:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return
