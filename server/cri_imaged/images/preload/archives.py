"""Brings in the archives of a folder: those that are there at the start, and those that appear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import (
    ConfigError,
    CorruptContentError,
    ImagedError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
from cri_imaged.images.archives.importer import Importer
from cri_imaged.images.handlers import Handler
from cri_imaged.images.pins import Pins
from cri_imaged.images.preload import folder
from cri_imaged.images.preload.folder import Stamp
from cri_imaged.images.preload.shown import DEFECT, Shown, State
from cri_imaged.images.publishing import Publisher
from cri_imaged.metadata import preloads, readiness
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.preloads import Imported
from cri_imaged.ports import Activity, Priority
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()

_AGAIN_SECONDS = 600.0
"""After which an archive is tried again that failed for want of something."""
_FINAL = (
    ConfigError,
    CorruptContentError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
"""What trying again does not change, as long as the file does not."""


@dataclass(frozen=True, slots=True)
class _Failure:
    stamp: Stamp
    again: float
    """When it is tried again; Unix seconds."""


class PreloadFolder:
    """Imports each archive once, as long as it stays the same and what it brought is here at the
    start. It is looked at every few seconds: that costs less than a thousandth of a CPU, and works
    on every file system."""

    def __init__(
        self,
        directory: Path,
        importer: Importer,
        handlers: Sequence[Handler],
        database: Database,
        publisher: Publisher,
        pins: Pins,
        *,
        pinned: bool,
    ) -> None:
        """`handlers`: those that all of it is brought in for; `pinned`: whether what the archives
        bring that are there is pinned."""
        self.shown = Shown(lambda name, _: self._is_here(name))
        self.pinned = pinned
        self._directory = directory
        self._importer = importer
        self._handlers = handlers
        self._database = database
        self._publisher = publisher
        self._pins = pins
        self._imported: dict[str, Imported] = {}
        self._seen: dict[str, Stamp] = {}
        self._failed: dict[str, _Failure] = {}
        self._missing: frozenset[str] = frozenset()
        """Images that were imported and are not here."""
        self._again: set[str] = set()
        """Files that are to be imported again, though they are the same."""

    async def load(self) -> None:
        """Know what was imported before, and have it pinned; what is not here any more is to be
        brought in again."""
        self._imported = {each.file: each for each in await self._database.read(preloads.every)}
        self._missing = self._not_here()
        self._bring_again(self._missing)
        await self.show_pins()

    async def run(self) -> None:
        """The background task."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("the preload folder could not be looked at; it is tried again")
            await asyncio.sleep(folder.LOOK_SECONDS)

    async def look(self) -> None:
        """Take over what is in the folder now."""
        try:
            await self._look()
        except ImagedError as error:
            if self.shown.problem != str(error):
                log.warning("the preload folder cannot be used", error=str(error))
            self.shown.problem = str(error)
            self.shown.begun = True
        else:
            self.shown.problem = ""

    async def _look(self) -> None:
        found = await on_disk(lambda: folder.look(self._directory))
        before, self._seen = self._seen, found
        for file in before.keys() - found:
            self.shown.drop(file)
            self._failed.pop(file, None)
        for file in self._imported.keys() - found:
            await self._forget(file)
        await self._notice_damage()
        wanted = [file for file in sorted(found) if self._is_due(file, found[file])]
        self.shown.begun = True
        await self.show_pins()
        for file in wanted:
            if folder.is_whole(found[file], before.get(file), time.time()):
                await self._bring(file, found[file])

    async def show_pins(self) -> None:
        """Have those pinned, or not, that the archives brought."""
        wanted = frozenset(
            name for each in self._imported.values() for name in each.names if self.pinned
        )
        if wanted != self._pins.preloaded:
            self._pins.preloaded = wanted
            await self._publisher.repinned()

    async def _notice_damage(self) -> None:
        """Have those imported again that were damaged since; no registry may have them. What
        somebody removed stays so until the next start."""
        missing = self._not_here()
        if missing - self._missing:
            damaged = await self._database.read(readiness.damaged)
            self._bring_again({name for image in damaged for name in image.names})
        self._missing = missing

    def _not_here(self) -> frozenset[str]:
        names = {name for each in self._imported.values() for name in each.names}
        return frozenset(name for name in names if not self._is_here(name))

    def _is_here(self, name: str) -> bool:
        return all(self._publisher.store.has(name, each.name) for each in self._handlers)

    def _bring_again(self, images: Collection[str]) -> None:
        for file, imported in self._imported.items():
            if not set(images).isdisjoint(imported.names):
                self._again.add(file)

    def _is_due(self, file: str, stamp: Stamp) -> bool:
        imported = self._imported.get(file)
        same = imported is not None and (imported.size, imported.modified) == stamp[:2]
        if imported is not None and same and file not in self._again:
            if self.shown.state(file) is not State.READY:
                self.shown.show(file, State.READY, imported.names)
            return False
        failed = self._failed.get(file)
        if failed is not None and failed.stamp == stamp and time.time() < failed.again:
            return False
        if self.shown.state(file) is not State.FAILED:
            self.shown.show(file, State.WAITING)
        return True

    async def _bring(self, file: str, stamp: Stamp) -> None:
        self.shown.show(file, State.WORKING)
        try:
            names = await self._import(self._directory / file)
            imported = Imported(file, stamp.size, stamp.modified, names)
            await to_the_end(self._database.write(lambda db: preloads.save(db, imported)))
        except Exception as error:
            self._fail(file, stamp, error)
            return
        self._failed.pop(file, None)
        self._again.discard(file)
        self._imported[file] = imported
        self.shown.show(file, State.READY, names)
        log.info("an archive was preloaded", file=file, images=list(names))
        await self.show_pins()

    def _fail(self, file: str, stamp: Stamp, error: Exception) -> None:
        """Have it told, and tried again where that may help; the others are none the worse."""
        again = float("inf") if isinstance(error, _FINAL) else time.time() + _AGAIN_SECONDS
        self._failed[file] = _Failure(stamp, again)
        if isinstance(error, ImagedError | OSError):
            self.shown.show(file, State.FAILED, problem=str(error))
            log.warning("an archive to preload was not imported", file=file, error=str(error))
        else:
            self.shown.show(file, State.FAILED, problem=DEFECT)
            log.error("an archive to preload met a defect", file=file, exc_info=error)

    async def _import(self, path: Path) -> tuple[str, ...]:
        names: list[str] = []
        for handler in self._handlers:
            try:
                names += await self._import_for(path, handler)
            except ImagedError as error:
                if handler.name:
                    raise error.within(f"runtime handler {handler.name}") from error
                raise
        return tuple(dict.fromkeys(names))

    async def _import_for(self, path: Path, handler: Handler) -> list[str]:
        activity = Activity(priority=Priority.PREFETCH)
        names: list[str] = []
        async with aclosing(
            self._importer.run(_pieces(path), handler, activity=activity)
        ) as imported:
            async for image in imported:
                names += image.names or (image.image_id,)
        return names

    async def _forget(self, file: str) -> None:
        del self._imported[file]
        self._again.discard(file)
        await self._database.write(lambda db: preloads.remove(db, file))
        log.info("an archive was taken out of the preload folder", file=file)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    pieces = folder.content(path)
    try:
        while (piece := await to_the_end(on_disk(partial(next, pieces, None)))) is not None:
            yield piece
    finally:
        await to_the_end(on_disk(pieces.close))
