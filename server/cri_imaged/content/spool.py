"""A blob on its way in whose digest is not known before all of it is here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from cri_imaged.disk import on_disk
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import BlobInfo


class FileSpool:
    """The one writer of `path`, until `publish` has made a blob of it or it is closed."""

    def __init__(
        self, path: Path, algorithm: str, publish: Callable[[Path, BlobInfo], Awaitable[None]]
    ) -> None:
        self._path = path
        self._algorithm = algorithm
        self._hasher = hashlib.new(algorithm)
        self._publish = publish
        self._size = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    async def write(self, chunk: bytes) -> None:
        """See `Spool.write`."""
        await on_disk(lambda: self._write(chunk))

    def _write(self, chunk: bytes) -> None:
        with told_as_no_space(f"what is imported, in {self._path.parent}"):
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]
        self._hasher.update(chunk)
        self._size += len(chunk)

    async def commit(self) -> BlobInfo:
        """See `Spool.commit`."""
        digest = Digest(f"{self._algorithm}:{self._hasher.hexdigest()}")
        info = BlobInfo(digest, self._size)
        await self._publish(self._path, info)
        return info

    def close(self) -> None:
        """Let go; what was not committed is gone."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)
