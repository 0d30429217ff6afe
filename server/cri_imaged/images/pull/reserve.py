"""The disk's reserve while pulls write: who writes waits where it is reached, and one pull ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import NoSpaceError
from cri_imaged.images.volume import Volume
from cri_imaged.limits import MIB
from cri_imaged.ports import Usage

log = structlog.get_logger()

K = TypeVar("K")

_LOOK_SECONDS = 0.1
_STEP = 4 * MIB
"""Bytes that pulls together write before the disk is looked at, at the latest."""


class ReserveReachedError(NoSpaceError):
    """A pull was ended for the disk's reserve, when all that may go had gone."""


class Writing(Protocol):
    """What one pull brings in."""

    @property
    def outstanding(self) -> int:
        """Compressed bytes that are still to come."""
        ...

    async def taken(self) -> Usage:
        """What it has put on the disk."""
        ...


def offender(taken: Mapping[K, Usage], *, bytes_left: bool) -> K:
    """Which of the pulls (oldest first) has to end where the disk's bytes (or, where these are
    left, its inodes) are used up: the one that took most of them, of equal ones the newest. So a
    small one beside it can go on."""
    return max(
        reversed(list(taken)), key=lambda key: taken[key].inodes if bytes_left else taken[key].bytes
    )


class Claim:
    """One pull's writing."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self._task: asyncio.Task[object] | None = None
        self._over = False
        self._error: NoSpaceError | None = None

    @property
    def works(self) -> bool:
        """Whether it can be ended."""
        return self._task is not None

    @property
    def gives_back(self) -> bool:
        """Whether it was ended, or its work is over: soon it will have given back what it holds
        for nothing."""
        return self._over or self._error is not None

    def end(self, error: NoSpaceError) -> None:
        """Stop its work, which raises `error`."""
        assert self._task is not None
        self._error = error
        self._task.cancel()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """It may be ended while the context lasts."""
        task = self._task = asyncio.current_task()
        assert task is not None
        asked_before = task.cancelling()
        try:
            yield
        except asyncio.CancelledError:
            if self._error is not None and task.uncancel() <= asked_before:
                raise self._error from None
            raise
        finally:
            self._task = None
            self._over = True


class Reserve:
    """Measures the disk while pulls write. Where its reserve is reached they wait, what unfinished
    pulls left goes, and then one pull after the other ends until there is room."""

    def __init__(self, disk: Volume, make_room: Callable[[], Awaitable[object]]) -> None:
        self._disk = disk
        self._make_room = make_room
        self._claims: list[Claim] = []
        """Oldest first."""
        self._busy = asyncio.Event()
        """Set while there are any."""
        self._look = asyncio.Event()
        self._room = asyncio.Event()
        """Cleared while nothing more may be written."""
        self._granted = _STEP
        self._gone = False
        """Whether one that gave back has gone since the disk was looked at."""

    @property
    def outstanding(self) -> int:
        """Compressed bytes that all pulls are still to bring."""
        return sum(claim.writing.outstanding for claim in self._claims)

    @contextmanager
    def claim(self, writing: Writing) -> Iterator[Claim]:
        """Count a pull's writing, until it and what it gave up has gone."""
        claim = Claim(writing)
        self._claims.append(claim)
        self._busy.set()
        try:
            yield claim
        finally:
            self._claims.remove(claim)
            self._gone = self._gone or claim.gives_back
            if not self._claims:
                self._busy.clear()
                self._open()

    async def room_for(self, size: int) -> None:
        """Wait until `size` bytes more may be written."""
        self._granted -= size
        if self._granted < 0 and self._claims:
            self._room.clear()
            self._look.set()
        if self._claims:
            await self._room.wait()

    async def watch(self) -> None:
        """The background task."""
        while True:
            await self._busy.wait()
            try:
                await self._measure()
            except Exception:
                log.exception("the disk's reserve could not be kept; it is tried again")
                self._open()
            if not self._claims:
                self._open()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._look.wait()
            self._look.clear()

    def _open(self) -> None:
        self._granted = _STEP
        self._room.set()

    async def _measure(self) -> None:
        if await on_disk(self._disk.shortage) is not None:
            self._room.clear()
            await self._make_room()
            shortage = await on_disk(self._disk.shortage)
            if shortage is not None:
                await self._end_one(shortage)
                return
        self._open()

    @property
    def _is_given_back(self) -> bool:
        """Whether room is about to come, or has come since it was looked for."""
        return self._gone or any(claim.gives_back for claim in self._claims)

    async def _end_one(self, shortage: str) -> None:
        gone, self._gone = self._gone, False
        if gone or self._is_given_back:
            return
        bytes_left = await on_disk(self._disk.has_bytes)
        taken = {claim: await claim.writing.taken() for claim in tuple(self._claims)}
        taken = {claim: usage for claim, usage in taken.items() if claim.works}
        if taken and not self._is_given_back:
            worst = offender(taken, bytes_left=bytes_left)
            usage = taken[worst]
            worst.end(
                ReserveReachedError(
                    f"no space for this image, which takes {usage.bytes} bytes and {usage.inodes} "
                    f"inodes by now: {shortage}"
                )
            )
