"""A file that grows while others read it: the writer's side of `LayerSource`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from cri_imaged.content import files
from cri_imaged.disk import on_disk
from cri_imaged.errors import NotFoundError
from cri_imaged.ports import Available, Complete, Failed, Restart, Watermark


class Growth:
    """What readers know of a growing file. Lives on one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._generation = 0
        self._end: Complete | Failed | None = None
        self._changed = asyncio.Event()

    def grown(self, size: int) -> None:
        """The file holds `size` bytes now."""
        self._size = size
        self._wake()

    def restarted(self) -> None:
        """Another, empty file has taken the file's place."""
        self._size = 0
        self._generation += 1
        self._wake()

    def ended(self, end: Complete | Failed) -> None:
        """Nothing changes any more. Only the first end counts."""
        if self._end is None:
            self._end = end
            self._wake()

    @property
    def generation(self) -> int:
        """How often another file has taken the file's place."""
        return self._generation

    async def watermarks(self, generation: int) -> AsyncIterator[Watermark]:
        """See `LayerSource.watermarks`; for a reader that has opened the file of `generation`."""
        told = -1
        while True:
            changed = self._changed
            if generation != self._generation:
                generation, told = self._generation, -1
                yield Restart()
            elif self._end is not None:
                yield self._end
                return
            elif self._size > told:
                told = self._size
                yield Available(told)
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class FileSource:
    """A `LayerSource` over a file: the first that exists of the paths where it may be."""

    def __init__(self, paths: Sequence[Path], growth: Growth) -> None:
        self._paths = paths
        self._growth = growth
        self._generation: int | None = None
        """Of the file that was opened last, at the least."""

    async def open(self) -> int:
        """See `LayerSource.open`. Raises `NotFoundError` where the file is gone."""
        self._generation = self._growth.generation
        return await on_disk(lambda: _open_first(self._paths), unwanted=os.close)

    def watermarks(self) -> AsyncIterator[Watermark]:
        """See `LayerSource.watermarks`."""
        opened = self._generation
        return self._growth.watermarks(self._growth.generation if opened is None else opened)


class WholeSource:
    """A `LayerSource` over a file that is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> int:
        """See `LayerSource.open`. Raises `NotFoundError` where the file is gone."""
        return await on_disk(lambda: _open_first([self._path]), unwanted=os.close)

    async def watermarks(self) -> AsyncIterator[Watermark]:
        """See `LayerSource.watermarks`."""
        yield Complete(await on_disk(lambda: files.size(self._path)))


def _open_first(paths: Sequence[Path]) -> int:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    raise NotFoundError(f"blob file {paths[-1].name} is gone from the content store")
