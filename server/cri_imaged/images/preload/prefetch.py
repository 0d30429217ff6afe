"""Pulls the images of a list before anybody asks for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from cri_imaged.daytimes import second_of_day, seconds_until
from cri_imaged.errors import ImagedError
from cri_imaged.images.preload.shown import DEFECT, Shown, State
from cri_imaged.images.pull.puller import Puller
from cri_imaged.images.reports import Cause
from cri_imaged.images.store import ImageStore
from cri_imaged.ports import Priority

log = structlog.get_logger()

_FIRST_RETRY_SECONDS = 30.0
_LOOK_SECONDS = 3600.0
"""After which at the latest it is looked whether an image is missing."""


@dataclass(frozen=True, slots=True)
class PrefetchList:
    """What is wanted."""

    images: tuple[str, ...] = ()
    """Canonical references."""
    refresh: tuple[int, ...] = ()
    """Minutes of the day at which all of them are pulled again."""
    jitter: float = 0.0
    """Seconds that a round is put off at the most, by chance."""
    handlers: tuple[str, ...] = ("",)
    """Runtime handlers that each of them is wanted for; empty: the default one."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Each image for each handler."""
        return ((name, handler) for name in self.images for handler in self.handlers)


def pause(
    wanted: PrefetchList, failures: int, began: float, lasted: float = 0.0
) -> tuple[float, bool]:
    """After a round: seconds until the next one, and whether that one pulls all of them again.
    `failures`: rounds one after the other that left some missing; `began`: second of the day at
    which the round did; `lasted`: its seconds."""
    retry = min(_FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 10), _LOOK_SECONDS)
    look = retry if failures else _LOOK_SECONDS
    refresh = max(seconds_until(wanted.refresh, began) - lasted, 0.0)
    return min(look, refresh), refresh <= look


class Prefetcher:
    """One image at a time, by the node's own credentials, and giving way to all that clients
    pull."""

    def __init__(self, puller: Puller, store: ImageStore, wanted: PrefetchList) -> None:
        self.shown = Shown(store.has)
        self._puller = puller
        self._store = store
        self._changed = asyncio.Event()
        self.configure(wanted)

    def configure(self, wanted: PrefetchList) -> None:
        """Have these from now on."""
        self._wanted = wanted
        every = set(wanted)
        for each in list(self.shown):
            if (each.name, each.handler) not in every:
                self.shown.drop(each.name, each.handler)
        for name, handler in wanted:
            if self.shown.state(name, handler) is None:
                self.shown.show(name, State.WAITING, handler=handler)
        self.shown.begun = True
        self._changed.set()

    async def run(self) -> None:
        """The background task."""
        failures, everything = 0, False
        clock = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            wanted, began, started = self._wanted, second_of_day(), clock()
            missing = await self._round(wanted, everything=everything)
            if missing is None:
                failures = 0  # and what was to be pulled again still is
                continue
            failures = failures + 1 if missing else 0
            seconds, everything = pause(wanted, failures, began, clock() - started)
            if await self._wait(seconds):
                failures, everything = 0, False

    async def _round(self, wanted: PrefetchList, *, everything: bool) -> int | None:
        """Pull what is missing, or all; returns how many are missing after it. None: the list has
        changed before it began."""
        due = [each for each in wanted if everything or not self._store.has(*each)]
        if due and await self._wait(random.uniform(0, wanted.jitter)):  # noqa: S311  # no secret
            return None
        for name, handler in wanted:
            if (name, handler) in due and (name, handler) in set(self._wanted):
                await self._pull(name, handler)
            elif self._store.has(name, handler) and self.shown.state(name, handler) not in (
                None,
                State.READY,
            ):
                self.shown.show(name, State.READY, (name,), handler=handler)
        return sum(not self._store.has(*each) for each in wanted)

    async def _pull(self, name: str, handler: str) -> None:
        self.shown.show(name, State.WORKING, handler=handler)
        problem = ""
        try:
            await self._puller.pull(name, handler, cause=Cause(priority=Priority.PREFETCH))
        except ImagedError as error:
            problem = str(error)
            log.warning("an image was not prefetched; it is tried again", image=name, error=problem)
        except Exception:
            problem = DEFECT
            log.exception("an image to prefetch met a defect; it is tried again", image=name)
        if self._store.has(name, handler):
            self.shown.show(name, State.READY, (name,), problem, handler=handler)
        else:
            self.shown.show(name, State.FAILED, problem=problem, handler=handler)

    async def _wait(self, seconds: float) -> bool:
        """Wait so long, or until the list has changed: whether it has."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
