"""What directories take on disk that are being written: by walking them, as rarely as it costs."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from cri_imaged.ports import Usage
from cri_imaged.snapshots.tasks import Check, Threads

_CHEAP = 0.05
"""Seconds that a walk may take each time it is asked for."""
_SHARE = 20
"""A dearer one is done again, in the background, after this many times what it took."""

_LEFT_OUT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class _Measure(NamedTuple):
    usage: Usage
    at: float
    seconds: float

    @property
    def stands(self) -> bool:
        return time.monotonic() - self.at < _SHARE * self.seconds


class Measures:
    """The last measures of what is being written."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._last: dict[int, _Measure] = {}
        self._running: dict[int, asyncio.Task[Usage]] = {}

    async def of(self, number: int, directory: Path) -> Usage:
        """What `directory`, known by `number`, takes: now, or where that takes long a while ago."""
        last = self._last.get(number)
        if last is None or last.seconds < _CHEAP:
            return await self._measure(number, directory)
        if not last.stands and number not in self._running:
            task = asyncio.create_task(self._measure(number, directory))
            self._running[number] = task
            task.add_done_callback(lambda done: self._ended(number, done))
        return last.usage

    async def now(self, directory: Path) -> Usage:
        """What `directory` takes."""
        return await self._threads.run("usage", lambda check: disk_usage(directory, check))

    def forget(self, number: int) -> None:
        """The directory known by `number` is gone."""
        self._last.pop(number, None)

    async def _measure(self, number: int, directory: Path) -> Usage:
        begun = time.monotonic()
        usage = await self.now(directory)
        ended = time.monotonic()
        self._last[number] = _Measure(usage, ended, ended - begun)
        return usage

    def _ended(self, number: int, task: asyncio.Task[Usage]) -> None:
        self._running.pop(number, None)
        if not task.cancelled():
            task.exception()  # the next one that asks is told


def disk_usage(directory: Path, check: Check) -> Usage:
    """Bytes and inodes of a tree, its root among them, or of a file; one of many names once. What
    goes while it is walked is left out, and so is what lies too deep for a path: a container can
    make that, and would else keep all others from being measured."""
    seen: set[tuple[int, int]] = set()
    total = inodes = 0
    pending = [os.fspath(directory)]
    while pending:
        check()
        folder = pending.pop()
        try:
            root = os.lstat(folder)
            entries = list(os.scandir(folder)) if stat.S_ISDIR(root.st_mode) else []
        except OSError as error:
            if error.errno not in _LEFT_OUT:
                raise
            continue
        total += root.st_blocks * 512
        inodes += 1
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno not in _LEFT_OUT:
                    raise
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
                continue
            if info.st_nlink > 1:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            total += info.st_blocks * 512
            inodes += 1
    return Usage(total, inodes)
