"""A blob on its way in: bytes are counted and hashed as they are written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from cri_imaged.content.growth import FileSource, Growth
from cri_imaged.errors import CorruptContentError, NoSpaceError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import BlobInfo, Complete, Failed

_READ_BYTES = 1 << 20


class FileIngest:
    """The one writer of `path`, until `publish` has made it `blob_path` or it is closed."""

    def __init__(
        self,
        descriptor: Descriptor,
        path: Path,
        blob_path: Path,
        publish: Callable[[Path, BlobInfo], Awaitable[None]],
    ) -> None:
        self._descriptor = descriptor
        self._path = path
        self._blob_path = blob_path
        self._publish = publish
        self._committed = False
        self._hasher = descriptor.digest.hasher()
        with self._told_as_no_space():
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._offset = 0
        self._growth = Growth(0)

    @property
    def offset(self) -> int:
        """See `Ingest.offset`."""
        return self._offset

    async def resume(self) -> None:
        """Take up the bytes that an earlier writer left. More than the descriptor allows: none."""
        size = os.fstat(self._fd).st_size
        if size > self._descriptor.size:
            self.restart()
        elif size:
            self._offset = await asyncio.to_thread(self._hash_existing)
            self._growth.grown(self._offset)

    def _hash_existing(self) -> int:
        total = 0
        # Opened anew: `close` does not wait for this thread where `resume` is cancelled.
        with self._path.open("rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                self._hasher.update(chunk)
                total += len(chunk)
        return total

    def write(self, chunk: bytes) -> None:
        """See `Ingest.write`."""
        if self._offset + len(chunk) > self._descriptor.size:
            raise CorruptContentError(
                f"blob {self._descriptor.digest} is longer than its descriptor's "
                f"{self._descriptor.size} bytes"
            )
        self._write_all(memoryview(chunk))
        self._hasher.update(chunk)
        self._growth.grown(self._offset)

    def _write_all(self, view: memoryview) -> None:
        try:
            with self._told_as_no_space():
                while view:
                    written = os.pwrite(self._fd, view, self._offset)
                    self._offset += written
                    view = view[written:]
        except NoSpaceError:
            # What the disk took of this chunk was not hashed: begin anew next time.
            self.restart()
            raise

    def restart(self) -> None:
        """See `Ingest.restart`."""
        self._path.unlink(missing_ok=True)
        with self._told_as_no_space():
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(self._fd)
        self._fd = fd
        self._hasher = self._descriptor.digest.hasher()
        self._offset = 0
        self._growth.restarted()

    def source(self) -> FileSource:
        """See `Ingest.source`."""
        return FileSource((self._path, self._blob_path), self._growth)

    async def commit(self) -> BlobInfo:
        """See `Ingest.commit`."""
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
        os.fchmod(self._fd, 0o644)
        await self._publish(self._path, info)
        self._committed = True
        self._growth.ended(Complete(wanted.size))
        return info

    def _told_as_no_space(self) -> AbstractContextManager[None]:
        what = f"blob {self._descriptor.digest} ({self._descriptor.size} bytes)"
        return told_as_no_space(what, self._path.parent)

    def close(self) -> None:
        """Stop writing. Partial bytes stay for a later writer; an empty ingest goes."""
        self._growth.ended(Failed(f"blob {self._descriptor.digest}: the fetch was given up"))
        empty = os.fstat(self._fd).st_size == 0
        os.close(self._fd)
        if not self._committed and empty:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()


@contextlib.contextmanager
def told_as_no_space(what: str, directory: Path) -> Iterator[None]:
    """Raise `NoSpaceError` where the disk or a quota is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError(f"no space left for {what} in {directory}: {error.strerror}") from None
