"""Layer sources for tests: real files, whose watermarks the test gives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Available, Complete, Failed, Restart, Watermark


def described(media_type: str) -> Descriptor:
    """A layer's descriptor, of which only the type matters here."""
    return Descriptor(media_type, Digest.of(b""), 0)


class Whole:
    """A file that is all there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    async def watermarks(self) -> AsyncIterator[Watermark]:
        yield Complete(self._path.stat().st_size)


class Growing:
    """A file that the test writes, as an ingest does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._size = 0
        self._state: Available | Complete | Failed = Available(0)
        self._restarts = 0
        self._condition = asyncio.Condition()
        self._path().write_bytes(b"")

    def _path(self) -> Path:
        return self._folder / f"ingest-{self._number}"

    async def write(self, data: bytes) -> None:
        with self._path().open("ab") as file:
            file.write(data)
        self._size += len(data)
        await self._set(Available(self._size))

    async def complete(self) -> None:
        await self._set(Complete(self._size))

    async def fail(self, reason: str) -> None:
        await self._set(Failed(reason))

    async def restart(self) -> None:
        self._number += 1
        self._size = 0
        self._path().write_bytes(b"")
        self._restarts += 1
        await self._set(Available(0))

    async def _set(self, state: Available | Complete | Failed) -> None:
        async with self._condition:
            self._state = state
            self._condition.notify_all()

    async def open(self) -> int:
        return os.open(self._path(), os.O_RDONLY | os.O_CLOEXEC)

    async def watermarks(self) -> AsyncIterator[Watermark]:
        restarts, seen = self._restarts, None
        while True:
            async with self._condition:
                while self._state is seen and self._restarts == restarts:
                    await self._condition.wait()
                restarted, restarts, seen = self._restarts != restarts, self._restarts, self._state
            if restarted:
                yield Restart()
            yield seen
            if isinstance(seen, Complete | Failed):
                return
