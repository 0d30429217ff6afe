"""What was written down of snapshots, to tell later whether they are as they were: of a tree its
listing, which is in its place; of a layer that is one file the digest, which is in its row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import structlog

from cri_imaged.metadata import layer_digests
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.layer_digests import FileDigest
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Verdict
from cri_imaged.snapshots.backend import Backend
from cri_imaged.snapshots.comparing import MISSING, compare_with_listing, write_down
from cri_imaged.snapshots.places import Places
from cri_imaged.snapshots.tasks import Check, Threads

log = structlog.get_logger(__name__)

_READ_BYTES = 256 << 10


class Records:
    """Those of one snapshotter."""

    def __init__(
        self, backend: Backend, places: Places, database: Database, threads: Threads
    ) -> None:
        self._backend = backend
        self._places = places
        self._database = database
        self._threads = threads

    async def write(self, snapshot: int) -> None:
        """Write down what a snapshot holds, where that was not done. Raises `OSError`."""
        place = self._places.of(snapshot)
        if not self._backend.one_file:
            await self._threads.run(
                f"listing of {place}", lambda check: write_down(self._backend, place, check)
            )
        elif not await self._known([snapshot]):
            await self._keep(snapshot, await self._read(place))

    async def write_wanted(self) -> None:
        """As `write`, for files that have come since and are durable. One that cannot be read is
        told, unless it is gone, and tried again the next time."""
        name = self._backend.name
        if self._backend.one_file:
            for snapshot in await self._database.read(lambda db: layer_digests.wanted(db, name)):
                try:
                    await self.write(snapshot)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    log.error("a layer cannot be read", snapshotter=name, error=str(error))

    async def compare(self, snapshot: int) -> Verdict:
        """Compare a snapshot with what was written down of it."""
        place = self._places.of(snapshot)
        known = await self._known([snapshot])
        if not known:
            return await self._threads.run(
                f"snapshot {snapshot}",
                lambda check: compare_with_listing(self._backend, place, check),
            )
        try:
            found = await self._read(place)
        except FileNotFoundError:
            return MISSING
        except OSError as error:
            return Verdict("damaged", f"it cannot be read: {error}")
        if found.digest != known[snapshot].digest:
            return Verdict("damaged", f"its file has the digest {found.digest}")
        return Verdict("sound")

    async def changed(self, candidates: Collection[int]) -> set[int]:
        """Those of `candidates` whose file is another one now. Only one that was written to since,
        or has another size, is read."""
        if not self._backend.one_file:
            return set()
        known = await self._known(candidates)

        def touched() -> list[int]:
            return [
                snapshot
                for snapshot, seen in known.items()
                if _stamp(self._backend.layer(self._places.of(snapshot))) not in (None, seen[1:])
            ]

        changed = set()
        for snapshot in await self._threads.run("layers", lambda check: touched()):
            try:
                found = await self._read(self._places.of(snapshot))
            except OSError:
                continue  # it is gone, or the disk does not say
            if found.digest == known[snapshot].digest:
                await self._keep(snapshot, found)
            else:
                changed.add(snapshot)
        return changed

    async def _known(self, candidates: Collection[int]) -> dict[int, FileDigest]:
        return await self._database.read(lambda db: layer_digests.of(db, candidates))

    async def _keep(self, snapshot: int, seen: FileDigest) -> None:
        await self._database.write(lambda db: layer_digests.keep(db, snapshot, seen))

    async def _read(self, place: Path) -> FileDigest:
        return await self._threads.run(
            f"digest of {place}", lambda check: digest_of(self._backend.layer(place), check)
        )


def digest_of(path: Path, check: Check) -> FileDigest:
    """Read a file. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        hashed, buffer = hashlib.sha256(), bytearray(_READ_BYTES)
        view = memoryview(buffer)
        while size := file.readinto(buffer):
            check()
            hashed.update(view[:size])
    return FileDigest(Digest(f"sha256:{hashed.hexdigest()}"), info.st_size, info.st_mtime_ns)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns
