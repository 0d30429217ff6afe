"""Where snapshots, views and runtimes' snapshots are on disk: `n`, `vn` and `rn` in
`snapshots/NAME`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from cri_imaged.errors import NoSpaceError
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Trash
from cri_imaged.private import close_to_others, private_directory

T = TypeVar("T")


class Places:
    """The directories of one snapshotter, by the numbers of their rows. Blocks, but for names."""

    def __init__(self, directory: Path, trash: Trash) -> None:
        private_directory(directory)
        close_to_others(directory.parent)
        self._directory = directory
        self._trash = trash

    def of(self, snapshot: int) -> Path:
        """A snapshot's place."""
        return self._directory / str(snapshot)

    def of_all(self, snapshots: Iterable[int]) -> list[Path]:
        """As `of`, for each."""
        return [self.of(snapshot) for snapshot in snapshots]

    def of_view(self, view: int) -> Path:
        """A writable view's place."""
        return self._directory / f"v{view}"

    def of_runtime(self, row: int) -> Path:
        """The place of a runtime's snapshot."""
        return self._directory / f"r{row}"

    def build(self, place: Path, fill: Callable[[Path], object]) -> None:
        """Make `place` where it is not there, filled, or not at all."""
        if place.exists():
            return
        unfinished = self.unfinished(place)
        self.throw_away(unfinished)
        try:
            self.make(unfinished)
            fill(unfinished)
            unfinished.rename(place)
        except BaseException:
            self.throw_away(unfinished)
            raise

    def unfinished(self, place: Path) -> Path:
        """Where `build` makes a place."""
        return place.with_name(f"{place.name}.new")

    def make(self, place: Path) -> None:
        """An empty place."""
        place.mkdir(mode=0o700)

    def throw_away(self, *places: Path) -> None:
        """Let their space come back. What is not there is done with."""
        for place in places:
            self._trash.put(place)

    async def drain(self) -> None:
        """Wait until the space of what was thrown away is back."""
        await self._trash.drain()

    def present(self) -> set[str]:
        """Names of all places that are there."""
        return set(os.listdir(self._directory))

    def named(self, name: str) -> Path:
        """One of `present`."""
        return self._directory / name


async def delete(database: Database, places: Places, rows: Callable[[sqlite3.Connection], T]) -> T:
    """Delete rows; on a full disk, where that has no room, once the trash is empty."""
    try:
        return await database.write(rows, durable=True)
    except NoSpaceError:
        await places.drain()
        return await database.write(rows, durable=True)
