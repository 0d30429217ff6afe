"""Durable without waiting for the disk: after a pull, in the background, file systems are synced
and rows marked. What was not marked before a power cut is dealt with at the next start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from cri_imaged import libc
from cri_imaged.errors import ImagedError
from cri_imaged.metadata import durability
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.durability import Volatile
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()


class Durability:
    """Brings to the disk what pulls wrote under some directories."""

    def __init__(
        self,
        database: Database,
        directories: Sequence[Path],
        *,
        wait: bool,
        discard: Callable[[], Awaitable[None]] | None,
        record: Callable[[], Awaitable[None]],
    ) -> None:
        """With `wait` each pull waits for the disk (`image_pull_with_sync_fs`). `discard` is
        called when all is durable, `record` after that, for what no pull waits for."""
        self._database = database
        self._wait = wait
        self._discard = discard
        self._record = record
        self._wanted = asyncio.Event()
        self._lock = asyncio.Lock()
        self._doubtful = Volatile()
        # Opened before anything is written: a later write-back error is reported to these.
        self._fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in directories]

    async def pulled(self) -> None:
        """A pull has ended: sync soon, or now where pulls wait."""
        self._wanted.set()
        if self._wait:
            await self.sync()

    async def run(self) -> None:
        """The background task: at a start, and after each pull."""
        self._wanted.set()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.sync()
                await self._record()
            except Exception:  # whatever it is, later pulls are synced nevertheless
                log.exception("could not sync, or not write down what is durable")

    async def sync(self) -> None:
        """Make durable what is there now.

        The kernel tells of what it could not write only once, and forgets it: of rows that a failed
        sync was for no later one says anything. They are verified, or made again, at the next
        start.

        Raises:
            OSError: a file system could not be synced; no row is marked.
        """
        async with self._lock:
            # Whoever is cancelled would not hear what the disk has lost, and nobody would again.
            await to_the_end(self._bring_to_disk())
            if self._discard is not None:
                await self._discard()

    async def _bring_to_disk(self) -> None:
        rows = (await self._database.read(durability.volatile)) - self._doubtful
        if rows:
            try:
                await self._sync_file_systems()
            except OSError:
                self._doubtful |= rows
                await self._keep_in_mind()
                raise
            await self._database.write(lambda db: durability.mark(db, rows), durable=True)

    async def _keep_in_mind(self) -> None:
        try:
            await self._database.write(durability.doubt)
        except ImagedError as error:
            log.error("a restart will not know that a sync has failed", error=str(error))

    async def _sync_file_systems(self) -> None:
        by_device = {os.fstat(fd).st_dev: fd for fd in self._fds}
        for fd in by_device.values():
            await asyncio.to_thread(libc.syncfs, fd)

    def close(self) -> None:
        """Release the descriptors."""
        for fd in self._fds:
            os.close(fd)


def epoch(root: Path) -> str:
    """What a row that is not durable depends on: this boot, and the file system under `root`."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {os.statvfs(root).f_fsid:x}"
