"""The worker pool: the `Applier` of this product, and the only face of this room."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple

from cri_imaged.errors import (
    CorruptContentError,
    SourceFailedError,
    UnsupportedContentError,
    WorkerDiedError,
)
from cri_imaged.layers import protocol
from cri_imaged.layers.client import Worker, Zygote
from cri_imaged.layers.feed import Feed
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.ports import Applied, Available, Complete, Extraction, Failed, LayerSource

_ATTEMPTS = 2
"""Workers that may die over one layer before it is given up."""
_ARRIVING = 4
"""Layers that are applied while they arrive, for each worker of `max_workers`: such a worker mostly
waits for the network."""


class _Restarted(Exception):  # noqa: N818  # no error: the attempt is void
    """The source began again."""


class _Died(Exception):  # noqa: N818  # no error yet: the attempt may be repeated
    """The worker ended without an answer."""


class _Work(NamedTuple):
    """What `apply` was asked for."""

    layer: LayerSource
    media_type: str
    into: Extraction
    algorithm: str


class WorkerPool:
    """Applies layers in confined worker processes.

    Of layers whose bytes are all here `max_workers` are applied at a time, first come, first
    served. Layers that still arrive are applied besides, as long as there are not too many: else
    one slow registry would hold up every other pull's layers. The rest waits to be all here.

    An asynchronous context manager: no worker outlives it. Implements `ports.Applier`.
    """

    def __init__(self, limits: Limits, *, max_workers: int) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(max_workers)
        self._room_for_arriving = _ARRIVING * max_workers
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()
        self._open = False

    async def __aenter__(self) -> WorkerPool:
        self._open = True
        await self._warm()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        if self._zygote is not None:
            await self._zygote.stop()
            self._zygote = None

    async def apply(
        self,
        layer: LayerSource,
        media_type: str,
        into: Extraction,
        *,
        algorithm: str = "sha256",
    ) -> Applied:
        """Apply `layer`, while it arrives, into `into`; see `ports.Applier`.

        A worker that dies is replaced once. A source that restarts empties the directory and
        begins again, however often. Cancelled, it returns when nothing of the worker runs.

        Raises:
            CorruptContentError: only once the source says that its bytes are the right ones.
            UnsupportedContentError, LimitExceededError, NoSpaceError
            SourceFailedError: the source did.
            WorkerDiedError: twice, and the message says of what; or the pool is closed.
        """
        if media_type not in media_types.LAYERS:
            raise UnsupportedContentError(f"layer type {media_type[:200]!r} is not supported")
        work = _Work(layer, media_type, into, algorithm)
        deaths = 0
        clear = False
        async with Feed(layer) as feed, self._slot(feed):
            while True:
                try:
                    return await self._attempt(feed, work, clear=clear)
                except _Restarted:
                    pass
                except _Died as died:
                    deaths += 1
                    if deaths == _ATTEMPTS:
                        raise WorkerDiedError(
                            f"the worker that unpacks a layer died {deaths} times: {died}"
                        ) from None
                clear = True

    @asynccontextmanager
    async def _slot(self, feed: Feed) -> AsyncIterator[None]:
        if isinstance(feed.state, Available) and self._room_for_arriving:
            self._room_for_arriving -= 1
            try:
                yield
            finally:
                self._room_for_arriving += 1
        else:
            while isinstance(feed.state, Available):
                await feed.changed()
            async with self._slots:
                yield

    async def _attempt(self, feed: Feed, work: _Work, *, clear: bool) -> Applied:
        zygote = await self._warm()
        epoch = feed.epoch
        _check(feed, epoch)
        source = work.layer.open()
        try:
            root = os.open(work.into.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                worker = zygote.fork(
                    source, root, work.media_type, work.algorithm, self._limits, clear=clear
                )
            finally:
                os.close(root)
        finally:
            os.close(source)
        try:
            answer = await self._supervise(worker, feed, epoch)
        finally:
            try:
                await _uncancelled(worker.kill())
            finally:
                worker.close()
        outcome = await asyncio.to_thread(protocol.read_answer, answer)  # of up to seal_bytes
        if isinstance(outcome, Applied):
            return outcome
        if outcome is None:
            raise _Died(_death(await worker.status, answer))
        if isinstance(outcome, CorruptContentError):
            await _settled(feed, epoch)
        raise outcome

    async def _supervise(self, worker: Worker, feed: Feed, epoch: int) -> bytes:
        """Feed the worker until it has answered."""
        answer = asyncio.create_task(worker.answer(protocol.answer_bytes(self._limits)))
        feeding = asyncio.create_task(_pump(worker, feed, epoch))
        try:
            await asyncio.wait({answer, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await feeding  # raises where the source restarted or failed
            return await answer
        finally:
            for task in (answer, feeding):
                task.cancel()
            await asyncio.gather(answer, feeding, return_exceptions=True)

    async def _warm(self) -> Zygote:
        async with self._starting:
            if not self._open:
                raise WorkerDiedError("the worker pool is closed: no more layers are unpacked")
            if self._zygote is None or not self._zygote.alive:
                if self._zygote is not None:
                    await self._zygote.stop()
                self._zygote = await Zygote.start()
            return self._zygote


async def _pump(worker: Worker, feed: Feed, epoch: int) -> None:
    """Tell the worker of every watermark until all bytes are there."""
    while True:
        _check(feed, epoch)
        state = feed.state
        assert not isinstance(state, Failed)
        complete = isinstance(state, Complete)
        heard = await worker.tell(protocol.watermark(state.size, complete=complete))
        if complete or not heard:
            return
        await feed.changed()


async def _settled(feed: Feed, epoch: int) -> None:
    """Wait until it is known whether the bytes were the right ones."""
    while not isinstance(feed.state, Complete):
        _check(feed, epoch)
        await feed.changed()
    _check(feed, epoch)


def _check(feed: Feed, epoch: int) -> None:
    if feed.epoch != epoch:
        raise _Restarted
    if isinstance(feed.state, Failed):
        raise SourceFailedError(f"the layer's bytes stopped arriving: {feed.state.reason}")


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Await to the end, and only then be cancelled."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _death(status: int | None, answer: bytes) -> str:
    if status is None:
        return "its parent process ended"
    if status == -9:
        return "killed by signal 9, often by the kernel for want of memory"
    if status < 0:
        return f"killed by signal {-status}"
    if answer:
        return "it gave an answer that cannot be read"
    return f"it ended with status {status} and without an answer"
