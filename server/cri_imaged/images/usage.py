"""What images take on disk, measured every few seconds from metadata so that asking is free."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from cri_imaged.errors import NotFoundError
from cri_imaged.metadata import totals
from cri_imaged.metadata.database import Database
from cri_imaged.ports import RuntimeSnapshots, SnapshotKind, Snapshotter, Usage

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """What is kept in one snapshotter's directory."""

    mountpoint: Path
    usage: Usage
    measured: int
    """Unix nanoseconds."""


class UsageMeter:
    """The figures of ImageFsInfo: one entry for each snapshotter, the default one first. The
    first entry also counts the content store. Containers' (KEP-4191) are apart."""

    def __init__(self, snapshotters: Sequence[Snapshotter], database: Database) -> None:
        self._snapshotters = snapshotters
        self._database = database
        self._runtime: Mapping[str, RuntimeSnapshots] = {}
        self.entries: tuple[FilesystemUsage, ...] = ()
        self.containers: tuple[FilesystemUsage, ...] = ()
        """What containers have written, where a runtime runs them from these snapshots."""

    def watch(self, runtime: Mapping[str, RuntimeSnapshots]) -> None:
        """Measure a runtime's containers, too; `runtime` has its snapshots by the name of the
        snapshotter that they stand on."""
        self._runtime = runtime

    async def measure(self) -> None:
        """Bring `entries` up to date."""
        taken = await self._database.read(totals.taken)
        usages = [taken.get(each.name, Usage(0, 0)) for each in self._snapshotters]
        usages[0] += taken[totals.BLOBS]
        now = time.time_ns()
        self.entries = tuple(
            FilesystemUsage(snapshotter.directory, usage, now)
            for snapshotter, usage in zip(self._snapshotters, usages, strict=True)
        )
        self.containers = tuple(
            [
                FilesystemUsage(each.directory, await _written(self._runtime[each.name]), now)
                for each in self._snapshotters
                if each.name in self._runtime
            ]
        )

    async def run(self, period: float) -> None:
        """The background task: measures every `period` seconds."""
        while True:
            await asyncio.sleep(period)
            try:
                await self.measure()
            except Exception:
                log.exception("could not measure the disk usage; it is tried again later")


async def _written(snapshots: RuntimeSnapshots) -> Usage:
    total = Usage(0, 0)
    for each in await snapshots.list():
        if each.kind is SnapshotKind.ACTIVE:
            with contextlib.suppress(NotFoundError):  # it just ended
                usage = await snapshots.usage(each.name)
                total = Usage(total.bytes + usage.bytes, total.inodes + usage.inodes)
    return total
