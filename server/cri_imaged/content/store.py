"""The content store: `blobs/<algorithm>/<hex>` holds verified blobs, `ingest/` growing ones.

A blob's file is in place before its row is, and its row is gone before its file is: what has a
row has a file. A file without a row is an orphan of a crash, and `reap` removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from cri_imaged.content.growth import FileSource, Growth
from cri_imaged.content.ingest import FileIngest, told_as_no_space
from cri_imaged.errors import CorruptContentError, LimitExceededError, NotFoundError
from cri_imaged.metadata import blobs
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import BlobInfo, Complete, Lease, Trash

_READ_BYTES = 1 << 20


class FileContentStore:
    """A `ContentStore` of files below one directory, known to the metadata database."""

    def __init__(self, directory: Path, database: Database, trash: Trash) -> None:
        self._blobs = directory / "blobs"
        self._ingests = directory / "ingest"
        self._database = database
        self._trash = trash
        self._writing: dict[Digest, asyncio.Event] = {}
        for path in (self._blobs / "sha256", self._blobs / "sha512", self._ingests):
            path.mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, or would be."""
        return self._blobs / digest.algorithm / digest.hex

    async def info(self, digest: Digest) -> BlobInfo | None:
        """See `ContentStore.info`."""
        return await self._database.read(lambda db: blobs.find(db, digest))

    async def hold(self, digest: Digest, lease: Lease) -> BlobInfo | None:
        """See `ContentStore.hold`. Finds out here where somebody else removed the file."""
        info = await self._database.write(lambda db: blobs.hold(db, digest, lease))
        if info is not None and info.state == "present" and not self.path(digest).exists():
            await self._database.write(lambda db: blobs.lost(db, [digest]), durable=True)
            return replace(info, state="lost")
        return info

    def open(self, digest: Digest) -> BinaryIO:
        """See `ContentStore.open`."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"blob {digest} is not in the content store") from None

    def source(self, digest: Digest) -> FileSource:
        """See `ContentStore.source`."""
        path = self.path(digest)
        growth = Growth(0)
        growth.ended(Complete(path.stat().st_size if path.exists() else 0))
        return FileSource((path,), growth)

    async def read(self, digest: Digest, limit: int) -> bytes:
        """See `ContentStore.read`."""
        with self.open(digest) as file:
            data = await asyncio.to_thread(_read, file, limit + 1)
        if len(data) > limit:
            raise LimitExceededError(f"blob {digest} has more than {limit} bytes")
        if Digest.of(data, digest.algorithm) != digest:
            await self._database.write(lambda db: blobs.lost(db, [digest]), durable=True)
            raise CorruptContentError(f"blob {digest} is damaged on disk; pull its image again")
        return data

    async def verify(self, digest: Digest) -> bool:
        """See `ContentStore.verify`."""

        def intact() -> bool:
            hasher = digest.hasher()
            with self.open(digest) as file:
                while chunk := _read(file, _READ_BYTES):
                    hasher.update(chunk)
            return digest.matches(hasher)

        try:
            return await asyncio.to_thread(intact)
        except NotFoundError:
            return False

    @asynccontextmanager
    async def writer(self, descriptor: Descriptor, lease: Lease) -> AsyncIterator[FileIngest]:
        """See `ContentStore.writer`."""
        digest = descriptor.digest
        while (ended := self._writing.get(digest)) is not None:
            await ended.wait()
        ended = self._writing[digest] = asyncio.Event()
        try:
            ingest = FileIngest(
                descriptor,
                self._ingest_path(digest),
                self.path(digest),
                lambda path, info: self._publish(path, info, lease),
            )
            try:
                await ingest.resume()
                yield ingest
            finally:
                ingest.close()
        finally:
            del self._writing[digest]
            ended.set()

    async def put(self, digest: Digest, data: bytes, lease: Lease) -> None:
        """See `ContentStore.put`."""
        with told_as_no_space(f"blob {digest}", self._ingests):
            path = _spool(self._ingests, data)
        try:
            await self._publish(path, BlobInfo(digest, len(data)), lease)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def reclaim(self, digests: Sequence[Digest]) -> None:
        """See `ContentStore.reclaim`. Writes no row: it must work on a full disk."""

        def discard(db: sqlite3.Connection) -> None:
            for digest in digests:
                info = blobs.find(db, digest)
                if info is None or info.state != "present":
                    self._trash.put(self.path(digest))

        await self._database.read(discard)

    async def reap(self) -> None:
        """See `ContentStore.reap`."""
        for path in await self.orphans():
            self._trash.put(path)
        for stray in self._ingests.glob("put-*"):
            stray.unlink()
        await self.notice_lost()

    async def adopt(self, lease: Lease) -> None:
        """See `ContentStore.adopt`."""
        for path in await self.orphans():
            digest = Digest(f"{path.parent.name}:{path.name}")
            if await self.verify(digest):
                size = path.stat().st_size
                await self._database.write(
                    lambda db, digest=digest, size=size: blobs.insert(db, digest, size, lease)  # type: ignore[misc]
                )
            else:
                self._trash.put(path)

    async def notice_lost(self) -> None:
        """See `ContentStore.notice_lost`."""

        def notice(db: sqlite3.Connection) -> None:
            files = {
                f"{folder.name}:{entry.name}": entry.stat().st_size
                for folder in self._blobs.iterdir()
                for entry in os.scandir(folder)
            }
            known = blobs.all_present(db)
            blobs.lost(db, [d for d, size in known.items() if files.get(d) != size])

        await self._database.write(notice, durable=True)

    async def orphans(self) -> list[Path]:
        """See `ContentStore.orphans`. Files come and go in transactions, so one sees all of it."""

        def find(db: sqlite3.Connection) -> list[Path]:
            known = blobs.all_present(db).keys()
            return [
                folder / name
                for folder in self._blobs.iterdir()
                for name in os.listdir(folder)
                if f"{folder.name}:{name}" not in known
            ]

        return await self._database.read(find)

    def partial(self, digest: Digest) -> int:
        """See `ContentStore.partial`."""
        try:
            return self._ingest_path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def drop_ingests(self, *, max_seconds: float, max_bytes: int) -> tuple[int, int]:
        """See `ContentStore.drop_ingests`."""
        idle = sorted(
            (
                (entry.stat().st_mtime, entry.stat().st_size, Path(entry.path))
                for entry in os.scandir(self._ingests)
                if not entry.name.startswith("put-") and _digest_of(entry.name) not in self._writing
            ),
            reverse=True,
        )
        kept = count = removed = 0
        for modified, size, path in idle:
            kept += size
            if kept > max_bytes or modified <= time.time() - max_seconds:
                path.unlink(missing_ok=True)
                count += 1
                removed += size
        return count, removed

    def _ingest_path(self, digest: Digest) -> Path:
        return self._ingests / f"{digest.algorithm}-{digest.hex}"

    async def _publish(self, path: Path, info: BlobInfo, lease: Lease) -> None:
        # The rename happens in the transaction, so that `reclaim` sees both or neither. A caller
        # that was cancelled here may have published the file already.
        def publish(db: sqlite3.Connection) -> None:
            published = not path.exists() and blobs.find(db, info.digest) == info
            blobs.insert(db, info.digest, info.size, lease)
            if not published:
                path.rename(self.path(info.digest))

        try:
            await self._database.write(publish)
        except Exception:
            await self.reclaim([info.digest])  # renamed, but without a row
            raise


def _read(file: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes. Where the disk does not give them back the file ends: what is there has
    other bytes than it should."""
    try:
        return file.read(size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _digest_of(ingest_name: str) -> Digest:
    return Digest(ingest_name.replace("-", ":", 1))


def _spool(directory: Path, data: bytes) -> Path:
    fd, name = tempfile.mkstemp(dir=directory, prefix="put-")
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(data)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
