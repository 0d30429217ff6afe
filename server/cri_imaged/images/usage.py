"""What images take on disk, measured every few seconds from metadata so that asking is free."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from cri_imaged.metadata import blobs
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Usage

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """One snapshotter's part of the image file system."""

    mountpoint: Path
    usage: Usage
    measured: int
    """Unix nanoseconds."""


class UsageMeter:
    """The figures of ImageFsInfo: one entry for each snapshotter, the default one first. The
    first entry also counts the content store."""

    def __init__(self, root: Path, snapshotters: Sequence[str], database: Database) -> None:
        self._root = root
        self._snapshotters = snapshotters
        self._database = database
        self.entries: tuple[FilesystemUsage, ...] = ()

    async def measure(self) -> None:
        """Bring `entries` up to date."""
        found = await self._database.read(self._read)
        now = time.time_ns()
        self.entries = tuple(
            FilesystemUsage(self._root / "snapshots" / name, usage, now)
            for name, usage in zip(self._snapshotters, found, strict=True)
        )

    async def run(self, period: float) -> None:
        """The background task: measures every `period` seconds."""
        while True:
            await asyncio.sleep(period)
            try:
                await self.measure()
            except Exception:
                log.exception("could not measure the disk usage; it is tried again later")

    def _read(self, db: sqlite3.Connection) -> list[Usage]:
        usages = []
        for name in self._snapshotters:
            row = db.execute(
                "SELECT coalesce(sum(bytes), 0), coalesce(sum(inodes), 0) FROM snapshots"
                " WHERE snapshotter = ?",
                (name,),
            ).fetchone()
            usages.append(Usage(row[0], row[1]))
        content_bytes, content_inodes = blobs.total_bytes(db)
        usages[0] = Usage(usages[0].bytes + content_bytes, usages[0].inodes + content_inodes)
        return usages
