"""A blob on its way in: bytes are counted, written and hashed, the latter two in threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path

from cri_imaged.content.backlog import Backlog
from cri_imaged.content.growth import FileSource, Growth
from cri_imaged.disk import on_disk, others_wait
from cri_imaged.errors import CorruptContentError
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import BlobInfo, Complete, Failed
from cri_imaged.shielding import to_the_end

ANEW = ".anew"
"""Ends the name of the file that takes an ingest's place."""
_READ_BYTES = 1 << 20
SMALL = 64 << 10
"""A blob up to this size that comes in one piece is hashed by the way, and written when it is
published: it takes less time than to hand it to a thread."""
_BATCH = 512 << 10
"""Bytes that are written, and then hashed, before readers are told of them."""


class FileIngest:
    """The one writer of `path`, until `publish` has made it `blob_path` or it is closed.

    What comes is put by while the disk is busy with what came before, and the thread that writes
    takes it up from there: a hand-over for each chunk would keep the disk waiting.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        path: Path,
        blob_path: Path,
        backlog: Backlog,
        publish: Callable[[Path, BlobInfo, Callable[[], None]], Awaitable[None]],
    ) -> None:
        """`publish` calls in a thread, and before anything else, what completes the file."""
        self._descriptor = descriptor
        self._path = path
        self._blob_path = blob_path
        self._backlog = backlog
        self._publish = publish
        self._committed = False
        self._superseded = False
        self._given_up = False
        self._hasher = descriptor.digest.hasher()
        self._fd = -1
        self._offset = 0
        self._waiting: deque[bytes] = deque()
        self._written = 0
        self._moved = asyncio.Event()
        """Set when some of what waits was written, or none of it can be."""
        self._writing: asyncio.Task[None] | None = None
        self._growth = Growth(0)

    @property
    def offset(self) -> int:
        """See `Ingest.offset`."""
        return self._offset

    async def resume(self) -> None:
        """Take up the bytes that an earlier writer left. More than the descriptor allows: none.

        Raises:
            NoSpaceError
        """
        opened = on_disk(self._open)
        self._offset = self._written = await to_the_end(opened, interrupt=self._give_up)
        self._growth.grown(self._offset)

    def _give_up(self) -> None:
        self._given_up = True

    def _open(self) -> int:
        with self._told_as_no_space():
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size > self._descriptor.size:
            os.ftruncate(self._fd, 0)
        total = 0
        while not self._given_up and (chunk := os.pread(self._fd, _READ_BYTES, total)):
            self._hasher.update(chunk)
            total += len(chunk)
        return total

    async def write(self, chunk: bytes) -> None:
        """See `Ingest.write`."""
        if self._offset + len(chunk) > self._descriptor.size:
            raise CorruptContentError(
                f"blob {self._descriptor.digest} is longer than its descriptor's "
                f"{self._descriptor.size} bytes"
            )
        if self._writing is not None and self._writing.done():
            await self._settled()
        self._waiting.append(chunk)
        self._offset += len(chunk)
        self._backlog.bytes += len(chunk)
        if self._is_small_and_whole():
            asyncio.get_running_loop().call_soon(self._begin)  # unless it is committed at once
        else:
            self._begin()
        while self._offset - self._written > self._backlog.share:
            self._moved.clear()
            await self._moved.wait()

    def _is_small_and_whole(self) -> bool:
        """Whether all of a small blob waits to be written."""
        return (
            self._written == 0
            and self._writing is None
            and self._offset == self._descriptor.size <= SMALL
        )

    def _begin(self) -> None:
        if self._waiting and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._put())

    async def _put(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                await to_the_end(on_disk(lambda: self._write_and_hash(loop)))
        except BaseException:
            await self._begin_anew()  # next time: what the disk took of this was not hashed
            raise
        finally:
            self._moved.set()

    def _write_and_hash(self, loop: asyncio.AbstractEventLoop) -> None:
        """What waits, and what comes meanwhile."""
        at = self._written
        while chunks := self._take():
            self._write_all(chunks, at)
            for chunk in chunks:
                self._hasher.update(chunk)
            at += sum(map(len, chunks))
            loop.call_soon_threadsafe(self._wrote, at)
            if others_wait():
                return

    def _take(self) -> list[bytes]:
        """Some of what waits."""
        chunks: list[bytes] = []
        size = 0
        while size < _BATCH and self._waiting:
            chunks.append(self._waiting.popleft())
            size += len(chunks[-1])
        return chunks

    def _wrote(self, to: int) -> None:
        self._backlog.bytes -= to - self._written
        self._written = to
        self._moved.set()
        if not self._superseded:
            self._growth.grown(to)

    def _write_all(self, chunks: list[bytes], at: int) -> None:
        with self._told_as_no_space():
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    written = os.pwrite(self._fd, view, at)
                    at += written
                    view = view[written:]

    async def _settled(self) -> None:
        """All that came is written. Raises what went wrong."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            done, self._writing = self._writing, None
            done.result()

    async def restart(self) -> None:
        """See `Ingest.restart`."""
        await to_the_end(self._restart())

    async def _restart(self) -> None:
        self._begin()
        with contextlib.suppress(Exception):  # it is of bytes that are thrown away
            await self._settled()
        await self._begin_anew()

    async def _begin_anew(self) -> None:
        try:
            if not self._superseded:
                self._growth.grown(0)  # which file is there is not known for a while
                await on_disk(self._reopen)
        finally:
            self._hasher = self._descriptor.digest.hasher()
            self._waiting.clear()
            self._backlog.bytes -= self._offset - self._written
            self._offset = self._written = 0
        if not self._superseded:
            self._growth.restarted()

    def _reopen(self) -> None:
        # Whoever opens it meanwhile finds the old file or the new one.
        anew = self._path.with_name(f"{self._path.name}{ANEW}")
        with self._told_as_no_space():
            fd = os.open(anew, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        anew.rename(self._path)
        self._close_file()
        self._fd = fd

    async def supersede(self) -> None:
        """See `Ingest.supersede`."""
        self._superseded = True
        await to_the_end(on_disk(lambda: self._path.unlink(missing_ok=True)))
        self._growth.restarted()
        self._growth.ended(Complete(self._descriptor.size))

    def source(self) -> FileSource:
        """See `Ingest.source`."""
        return FileSource((self._path, self._blob_path), self._growth)

    async def commit(self) -> BlobInfo:
        """See `Ingest.commit`."""
        last: list[bytes] = []
        if self._is_small_and_whole():
            last = self._take()
            self._backlog.bytes -= self._offset
            self._written = self._offset
            for chunk in last:
                self._hasher.update(chunk)
        await self._settled()
        wanted = self._descriptor
        if self._offset != wanted.size:
            raise CorruptContentError(
                f"blob {wanted.digest} has {self._offset} bytes, its descriptor says {wanted.size}"
            )
        if not wanted.digest.matches(self._hasher):
            raise CorruptContentError(
                f"blob {wanted.digest} has other bytes: "
                f"their digest is {wanted.digest.algorithm}:{self._hasher.hexdigest()}"
            )
        info = BlobInfo(wanted.digest, wanted.size)
        # Not torn: the descriptor is closed there, or in `close`.
        try:
            await to_the_end(self._publish(self._path, info, lambda: self._complete(last)))
        except Exception:
            if last:  # hashed, and not known to be written
                await self._begin_anew()
            raise
        self._committed = True
        self._growth.ended(Complete(wanted.size))
        return info

    def _complete(self, last: list[bytes]) -> None:
        self._write_all(last, 0)
        self._close_file()

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _told_as_no_space(self) -> AbstractContextManager[None]:
        blob = f"blob {self._descriptor.digest} ({self._descriptor.size} bytes)"
        return told_as_no_space(f"{blob} in {self._path.parent}")

    async def close(self) -> None:
        """Stop writing, cancelled or not. Partial bytes stay for a later writer; an empty ingest
        goes."""
        self._growth.ended(Failed(f"blob {self._descriptor.digest}: the fetch was given up"))
        await to_the_end(self._close())

    async def _close(self) -> None:
        self._begin()
        with contextlib.suppress(Exception):  # nobody waits to be told
            await self._settled()
        if self._fd >= 0:
            await on_disk(self._let_go)

    def _let_go(self) -> None:
        empty = os.fstat(self._fd).st_size == 0
        os.close(self._fd)
        if self._superseded or (not self._committed and empty):
            self._path.unlink(missing_ok=True)
