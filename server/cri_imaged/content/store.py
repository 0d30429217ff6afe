"""The content store: `blobs/<algorithm>/<hex>` holds verified blobs, `ingest/` growing ones.

A blob's file is in place before its row is, and its row is gone before its file is: what has a
row has a file. A file without a row is an orphan of a crash, and `reap` removes it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from cri_imaged.content import files
from cri_imaged.content.backlog import Backlog
from cri_imaged.content.growth import WholeSource
from cri_imaged.content.ingest import ANEW, SMALL, FileIngest
from cri_imaged.content.spool import FileSpool
from cri_imaged.disk import on_disk
from cri_imaged.errors import CorruptContentError, LimitExceededError, NotFoundError
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.metadata import blobs
from cri_imaged.metadata.database import Database
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import BlobInfo, Lease, Trash
from cri_imaged.private import close_to_others, private_directory
from cri_imaged.shielding import to_the_end

_READ_BYTES = 1 << 20

T = TypeVar("T")


class FileContentStore:
    """A `ContentStore` of files below one directory, known to the metadata database."""

    def __init__(
        self, directory: Path, database: Database, trash: Trash, lost: Callable[[], object]
    ) -> None:
        """`lost` is called where a blob is found to be damaged or gone while it is used."""
        self._lost = lost
        self._blobs = directory / "blobs"
        self._ingests = directory / "ingest"
        self._database = database
        self._trash = trash
        self._backlog = Backlog()
        self._writing: dict[str, asyncio.Event] = {}
        folders = (self._blobs / "sha256", self._blobs / "sha512")
        for path in (directory, self._blobs, *folders, self._ingests):
            private_directory(path)

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, or would be."""
        return self._blobs / digest.algorithm / digest.hex

    async def info(self, digest: Digest) -> BlobInfo | None:
        """See `ContentStore.info`."""
        return await self._database.read(lambda db: blobs.find(db, digest))

    async def hold(self, digest: Digest, lease: Lease) -> BlobInfo | None:
        """See `ContentStore.hold`. Finds out here where somebody else removed the file."""
        return (await self.hold_all([digest], lease))[digest]

    async def hold_all(
        self, digests: Collection[Digest], lease: Lease
    ) -> dict[Digest, BlobInfo | None]:
        """See `ContentStore.hold_all`."""
        if not digests:
            return {}

        def hold(db: sqlite3.Connection) -> tuple[dict[Digest, BlobInfo | None], list[BlobInfo]]:
            held = {digest: blobs.hold(db, digest, lease) for digest in digests}
            present = [info for info in held.values() if info and info.state == "present"]
            return held, [info for info in present if not self.path(info.digest).exists()]

        held, gone = await self._database.write(hold)
        if gone:
            lost = {info.digest: replace(info, state="lost") for info in gone}
            await self._database.write(lambda db: blobs.lost(db, lost), durable=True)
            self._lost()
            held.update(lost)
        return held

    async def has_file(self, digest: Digest) -> bool:
        """See `ContentStore.has_file`."""
        return await on_disk(self.path(digest).exists)

    def source(self, digest: Digest) -> WholeSource:
        """See `ContentStore.source`."""
        return WholeSource(self.path(digest))

    async def read(self, digest: Digest, limit: int) -> bytes:
        """See `ContentStore.read`."""
        return await self.decoded(digest, limit, bytes)

    async def decoded(self, digest: Digest, limit: int, decode: Callable[[bytes], T]) -> T:
        """See `ContentStore.decoded`."""

        def read() -> tuple[T] | None:
            with self._open(digest) as file:
                data = files.read(file, limit + 1)
            if len(data) > limit:
                raise LimitExceededError(f"blob {digest} has more than {limit} bytes")
            return (decode(data),) if Digest.of(data, digest.algorithm) == digest else None

        found = await on_disk(read)
        if found is None:
            await self._database.write(lambda db: blobs.lost(db, [digest]), durable=True)
            self._lost()
            raise CorruptContentError(f"blob {digest} is damaged on disk; pull its image again")
        return found[0]

    async def verify(self, digest: Digest) -> bool:
        """See `ContentStore.verify`."""

        def intact() -> bool:
            hasher = digest.hasher()
            with self._open(digest) as file:
                while chunk := files.read(file, _READ_BYTES):
                    hasher.update(chunk)
            return digest.matches(hasher)

        try:
            return await on_disk(intact)
        except NotFoundError:
            return False

    def _open(self, digest: Digest) -> BinaryIO:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"blob {digest} is not in the content store") from None

    @asynccontextmanager
    async def writer(
        self, descriptor: Descriptor, lease: Lease, *, beside: bool = False
    ) -> AsyncIterator[FileIngest]:
        """See `ContentStore.writer`."""
        path = self._ingest_path(descriptor, beside=beside)
        while (ended := self._writing.get(path.name)) is not None:
            await ended.wait()
        with self._alone(path.name):
            blob_path, publish = self.path(descriptor.digest), partial(self._publish, lease)
            ingest = FileIngest(descriptor, path, blob_path, self._backlog, publish)
            try:
                await ingest.resume()
                yield ingest
            finally:
                await ingest.close()

    @asynccontextmanager
    async def spool(self, algorithm: str, lease: Lease) -> AsyncIterator[FileSpool]:
        """See `ContentStore.spool`."""
        path = self._ingests / f"put-{uuid.uuid4().hex}"
        spool = await on_disk(
            lambda: FileSpool(path, algorithm, partial(self._publish, lease)),
            unwanted=FileSpool.close,
        )
        try:
            yield spool
        finally:
            await to_the_end(on_disk(spool.close))

    async def put(self, digest: Digest, data: bytes, lease: Lease) -> None:
        """See `ContentStore.put`."""
        path = self._ingests / f"put-{uuid.uuid4().hex}"

        def spool() -> None:
            files.spool(path, data)

        with told_as_no_space(f"blob {digest} in {self._ingests}"):
            try:
                if len(data) > SMALL:
                    await to_the_end(on_disk(spool))
                complete = bool if len(data) > SMALL else spool
                await self._publish(lease, path, BlobInfo(digest, len(data)), complete)
            except BaseException:
                await to_the_end(on_disk(lambda: path.unlink(missing_ok=True)))
                raise

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
        await on_disk(self._close_files)
        strays = await self.orphans()
        await on_disk(lambda: self._throw_away(strays))
        await self.notice_lost()

    def _throw_away(self, strays: Sequence[Path]) -> None:
        for path in strays:
            self._trash.put(path)
        for spooled in self._ingests.glob("put-*"):
            spooled.unlink()

    def _close_files(self) -> None:
        """An earlier version of the program let others read them."""
        for path in (*self._blobs.glob("*/*"), *self._ingests.iterdir()):
            close_to_others(path)

    async def adopt(self, lease: Lease) -> None:
        """See `ContentStore.adopt`."""
        for path in await self.orphans():
            digest = Digest(f"{path.parent.name}:{path.name}")
            if await self.verify(digest):
                await self._database.write(partial(self._insert, path, digest, lease))
            else:
                await on_disk(partial(self._trash.put, path))

    def _insert(self, path: Path, digest: Digest, lease: Lease, db: sqlite3.Connection) -> None:
        blobs.insert(db, digest, path.stat().st_size, lease)

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

    async def partial(self) -> tuple[int, int]:
        """See `ContentStore.partial`."""

        def measure() -> tuple[int, int]:
            sizes = [files.size(path) for path in self._ingests.iterdir()]
            return len(sizes), sum(sizes)

        return await on_disk(measure)

    async def partial_bytes(self, blobs: Sequence[Descriptor]) -> int:
        """See `ContentStore.partial_bytes`."""
        return await on_disk(
            lambda: sum(min(files.size(self._ingest_path(blob)), blob.size) for blob in blobs)
        )

    async def drop_ingests(self, *, max_seconds: float, max_bytes: int) -> tuple[int, int]:
        """See `ContentStore.drop_ingests`."""
        busy = set(self._writing)
        old = await on_disk(lambda: self._old_ingests(busy, max_seconds, max_bytes))
        dropped = {path: size for path, size in old.items() if _owner(path) not in self._writing}
        with ExitStack() as alone:
            for name in set(map(_owner, dropped)):
                alone.enter_context(self._alone(name))
            await to_the_end(on_disk(lambda: files.unlink(dropped)))
        return len(dropped), sum(dropped.values())

    def _old_ingests(
        self, busy: Collection[str], max_seconds: float, max_bytes: int
    ) -> dict[Path, int]:
        """Those that are to go, and their sizes."""
        idle = sorted(
            (
                (entry.stat().st_mtime, entry.stat().st_size, Path(entry.path))
                for entry in os.scandir(self._ingests)
                if not entry.name.startswith("put-") and _owner(Path(entry.path)) not in busy
            ),
            reverse=True,
        )
        kept, old = 0, {}
        for modified, size, path in idle:
            kept += size
            if kept > max_bytes or modified <= time.time() - max_seconds:
                old[path] = size
        return old

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Be the only one at work with an ingest. Whoever enters has seen that nobody is."""
        ended = self._writing[name] = asyncio.Event()
        try:
            yield
        finally:
            del self._writing[name]
            ended.set()

    def _ingest_path(self, descriptor: Descriptor, *, beside: bool = False) -> Path:
        """Not the same for two claims of a blob's size: one of them is a lie."""
        digest = descriptor.digest
        name = f"{digest.algorithm}-{digest.hex}-{descriptor.size}"
        return self._ingests / (f"{name}-beside" if beside else name)

    async def _publish(
        self, lease: Lease, path: Path, info: BlobInfo, complete: Callable[[], object] = bool
    ) -> None:
        # The rename happens in the transaction, so that `reclaim` sees both or neither. A caller
        # that was cancelled here may have published the file already.
        is_complete = False

        def publish(db: sqlite3.Connection) -> None:
            nonlocal is_complete
            complete()
            is_complete = True
            published = not path.exists() and blobs.find(db, info.digest) == info
            blobs.insert(db, info.digest, info.size, lease)
            if not published:
                path.rename(self.path(info.digest))

        try:
            await self._database.write(publish)
        except Exception:
            if is_complete:
                await self.reclaim([info.digest])  # renamed, but without a row
            raise


def _owner(path: Path) -> str:
    """The ingest that a file belongs to."""
    return path.name.removesuffix(ANEW)
