"""What happens to images and pulls, told to whoever listens in this process.

A listener is called at once, in order, on the event loop: it counts or takes note, and must not
wait. Who needs time subscribes instead, and loses events when it falls too far behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from cri_imaged.images.reports import PullReport
from cri_imaged.images.store import Image

log = structlog.get_logger()

_WAITING_EVENTS = 1024


@dataclass(frozen=True, slots=True)
class ImageKnown:
    """An image is shown from now on, or has other names than before; or it was pulled again, and
    nothing about it is new."""

    image: Image
    before: Image | None
    """As it was; None where it was not here."""


@dataclass(frozen=True, slots=True)
class ImageGone:
    """An image is not shown any more: it was removed."""

    image: Image


@dataclass(frozen=True, slots=True)
class PullBegan:
    """A pull was asked for; it may have to wait for its turn."""

    pull: str
    """Tells pulls of one daemon apart."""
    reference: str
    handler: str


@dataclass(frozen=True, slots=True)
class PullProgressed:
    """A pull has come to its next phase."""

    pull: str
    phase: str


@dataclass(frozen=True, slots=True)
class PullEnded:
    """A pull is over, however it went."""

    pull: str
    report: PullReport


@dataclass(frozen=True, slots=True)
class Stopping:
    """The daemon stops: nothing begins any more."""


@dataclass(frozen=True, slots=True)
class GarbageCollected:
    """What nothing needed was removed; often nothing at all."""

    blobs: int
    snapshots: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoreChecked:
    """The store was compared with what its metadata says."""

    problems: int
    repaired: int
    whole: bool = True
    """False: only those files were looked for that somebody else may have removed."""


Event: TypeAlias = (
    ImageKnown
    | ImageGone
    | PullBegan
    | PullProgressed
    | PullEnded
    | GarbageCollected
    | StoreChecked
    | Stopping
)
Listener: TypeAlias = Callable[[Event], None]


class Subscription:
    """Events since it began, at one's own pace."""

    def __init__(self, waiting: int, wanted: Callable[[Event], bool]) -> None:
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._waiting = waiting
        self._wanted = wanted
        self.dropped = 0
        """Events that came while as many as allowed waited to be read."""
        self.at = 0
        """When the event that was read last happened, in Unix nanoseconds."""

    def take(self, event: Event) -> None:
        """A `Listener`."""
        if not self._wanted(event):
            return
        # The last one always has its place: who has fallen behind is to find the end, too.
        if self._queue.qsize() >= self._waiting and not isinstance(event, Stopping):
            self.dropped += 1
        else:
            self._queue.put_nowait((time.time_ns(), event))

    async def wait(self, seconds: float | None) -> None:
        """Wait until something has happened, for so long at the most; what has is read by it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._queue.get()
        while not self._queue.empty():
            self._queue.get_nowait()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            self.at, event = await self._queue.get()
            yield event


def _every(_: Event) -> bool:
    return True


class Events:
    """The bus of one daemon."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def publish(self, event: Event) -> None:
        """Tell every listener. One that fails hurts neither the others nor the caller."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed", event_type=type(event).__name__)

    def attach(self, listener: Listener) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    @contextmanager
    def subscribe(
        self, waiting: int = _WAITING_EVENTS, wanted: Callable[[Event], bool] = _every
    ) -> Iterator[Subscription]:
        """Those events that are `wanted`, as they come while the context lasts; at most `waiting`
        are kept unread."""
        subscription = Subscription(waiting, wanted)
        self._listeners.append(subscription.take)
        try:
            yield subscription
        finally:
            self._listeners.remove(subscription.take)
