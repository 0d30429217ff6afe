"""The worker pool: the `Applier` of this product, and the only face of this room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import NamedTuple

from msgspec.structs import replace

from cri_imaged.budget import MemoryBudget
from cri_imaged.disk import on_disk
from cri_imaged.errors import (
    CorruptContentError,
    SourceFailedError,
    WindowExceededError,
    WorkerDiedError,
)
from cri_imaged.layers.decode.table import encoded
from cri_imaged.layers.worker import protocol
from cri_imaged.layers.worker.given import Given, open_for
from cri_imaged.layers.worker.handle import Confinement, Work, Worker, Zygote
from cri_imaged.layers.worker.turns import Turns
from cri_imaged.layers.worker.watch import SourceWatch
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import (
    Activity,
    Applied,
    Available,
    Complete,
    Failed,
    LayerSecret,
    LayerSource,
    Priority,
    Sharers,
    Target,
)
from cri_imaged.shielding import to_the_end

_ATTEMPTS = 2
"""Workers that may die over one layer before it is given up."""
_ARRIVING = 4
"""Layers that are applied while they arrive, for each worker of `max_workers`: such a worker mostly
waits for the network."""


_FIRST = 16
"""Layers that are applied besides, each the only one of its pull."""


_SMALL_BYTES = 8 << 20
"""Layers up to this size may be decoded by a process that decoded others: that takes much of the
time of a smaller one."""
_SHARED_SECONDS = 20.0
"""Once all of its bytes are there, such a layer is applied within so many, or anew."""
_SMALL_WINDOW = 8 << 20
"""Bytes of a zstd window that each decoder may have (RFC 8878 recommends to support as much)."""


class _Restarted(Exception):  # noqa: N818  # no error: the attempt is void
    """The source began again."""


class _Doubted(Exception):  # noqa: N818  # no error yet: the attempt is void
    """It failed, and its decoder may have been taken over by another layer."""


class _Died(Exception):  # noqa: N818  # no error yet: the attempt may be repeated
    """The worker ended without an answer."""


class _Layer(NamedTuple):
    """What is to be applied."""

    source: LayerSource
    watch: SourceWatch
    secret: LayerSecret | None
    diff_id: Digest | None


class WorkerPool:
    """Applies layers in confined worker processes.

    Of layers whose bytes are all here `max_workers` are applied at a time, of each registry,
    namespace and pull in turn; and besides one of each pull of which none is, as long as there are
    not too many: one of an honest pull need not wait for long ones of others. Layers that still
    arrive are applied besides, too: else one slow registry would hold up every other pull's layers.
    The rest waits to be all here, and so does what no client waits for: it may be held up for long.

    An asynchronous context manager: no worker outlives it. Implements `ports.Applier`.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        max_workers: int,
        reserve: int = 0,
        memory: MemoryBudget | None = None,
    ) -> None:
        """`reserve`: bytes of the disk that layers leave free. `memory`: what large windows of
        decoders are drawn from."""
        self._limits = limits
        self._memory = memory or MemoryBudget(limits.memory_bytes)
        self._reserve = reserve
        self._turns = Turns(max_workers, first=_FIRST)
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

    @property
    def process(self) -> int | None:
        """The ID of the process whose children the workers are; None where it does not run."""
        zygote = self._zygote
        return zygote.process if zygote is not None and zygote.alive else None

    async def confinement(self) -> Confinement:
        """What confines workers here, and what cannot. Raises `WorkerDiedError`."""
        zygote = await self._warm()
        return await asyncio.shield(zygote.confined)

    async def apply(
        self,
        source: LayerSource,
        descriptor: Descriptor,
        into: Target,
        *,
        algorithm: str = "sha256",
        share: Sharers | None = None,
        secret: LayerSecret | None = None,
        diff_id: Digest | None = None,
        origin: str = "",
    ) -> Applied:
        """Apply the layer of `source`, while it arrives, into `into`; see `ports.Applier`.

        Small layers of one `origin` have one decoder after another, where their `diff_id` is known
        and they are not encrypted. What such a decoder does to a layer but to decode it is not
        believed: then it is applied anew, with one of its own.

        A worker that dies is replaced once. A source that restarts empties the target and
        begins again, however often. Cancelled, it returns when nothing of the worker runs.

        Raises:
            CorruptContentError: only once the source says that its bytes are the right ones.
            UnsupportedContentError, LimitExceededError, NoSpaceError
            SourceFailedError: the source did.
            WorkerDiedError: twice, and the message says of what; or the pool is closed.
        """
        if diff_id is None or secret is not None or descriptor.size > _SMALL_BYTES:
            origin = ""
        work = Work(encoded(descriptor), algorithm, into, self._reserve, origin)
        most = self._limits.zstd_window_bytes
        window = min(_SMALL_WINDOW, most)
        share = share or Sharers(Activity())
        async with SourceWatch(source) as watch:
            layer = _Layer(source, watch, secret, diff_id)
            while True:
                try:
                    async with self._memory_for(window, watch), self._slot(watch, share):
                        limits = replace(self._limits, zstd_window_bytes=window)
                        clear = window > _SMALL_WINDOW
                        return await self._apply(layer, work, limits, clear=clear)
                except WindowExceededError:
                    if window == most:
                        raise
                    window = min(2 * window, most)

    @asynccontextmanager
    async def _memory_for(self, window: int, watch: SourceWatch) -> AsyncIterator[None]:
        """A large window's memory is held by no layer that still arrives, and is there before
        the layer is given one of the workers' places."""
        if window <= _SMALL_WINDOW:
            yield
            return
        while isinstance(watch.state, Available):
            await watch.changed()
        async with self._memory.holding(window - _SMALL_WINDOW, "layer: its zstd window"):
            yield

    async def _apply(self, layer: _Layer, work: Work, limits: Limits, *, clear: bool) -> Applied:
        deaths = 0
        while True:
            try:
                return await self._attempt(layer, work, limits, clear=clear)
            except (_Restarted, _Doubted):
                pass
            except _Died as died:
                deaths += 1
                if deaths == _ATTEMPTS:
                    raise WorkerDiedError(
                        f"the worker that unpacks a layer died {deaths} times: {died}"
                    ) from None
            clear = True

    @asynccontextmanager
    async def _slot(self, watch: SourceWatch, share: Sharers) -> AsyncIterator[None]:
        urgent = share.priority is Priority.CLIENT
        if isinstance(watch.state, Available) and urgent and self._room_for_arriving:
            self._room_for_arriving -= 1
            try:
                yield
            finally:
                self._room_for_arriving += 1
        else:
            while isinstance(watch.state, Available):
                await watch.changed()
            async with self._turns.place_of_any(share):
                yield

    async def _attempt(self, layer: _Layer, work: Work, limits: Limits, *, clear: bool) -> Applied:
        zygote = await self._warm()
        epoch = layer.watch.epoch
        source = await layer.source.open()
        given = await on_disk(
            lambda: open_for(source, work.into, layer.secret), unwanted=Given.close
        )
        try:
            worker = zygote.fork(work, given, limits, clear=clear)
            shares = bool(work.origin) and not clear
            answer = await self._answer(worker, layer.watch, epoch, shares=shares)
        except BaseException:
            await to_the_end(on_disk(given.close))
            raise
        # In a thread: of up to `seal_bytes`.
        outcome = await to_the_end(on_disk(lambda: _read(answer, given, self._limits)))
        if isinstance(outcome, Applied) and layer.diff_id in (None, outcome.diff_id):
            return outcome
        if worker.decoder_was_used and not isinstance(outcome, WindowExceededError):
            raise _Doubted
        if isinstance(outcome, Applied):
            return outcome
        if outcome is None or isinstance(outcome, WorkerDiedError):
            raise _Died(_death(await worker.status, outcome, answer))
        if isinstance(outcome, CorruptContentError):
            await _settled(layer.watch, epoch)
        raise outcome

    async def _answer(
        self, worker: Worker, watch: SourceWatch, epoch: int, *, shares: bool
    ) -> bytes:
        """What the worker says when all of it has ended. `shares`: its decoder, with others."""
        try:
            return await self._supervise(worker, watch, epoch, _SHARED_SECONDS if shares else None)
        except TimeoutError:
            raise _Died("it was stopped, or makes nothing of its bytes") from None
        finally:
            try:
                await to_the_end(worker.kill())
            finally:
                worker.close()

    async def _supervise(
        self, worker: Worker, watch: SourceWatch, epoch: int, patience: float | None
    ) -> bytes:
        """Keep the worker fed until it has answered: after all bytes are there, within `patience`
        seconds."""
        feeding = asyncio.create_task(_pump(worker, watch, epoch))
        answer = asyncio.create_task(worker.answer(feeding.done))
        try:
            await asyncio.wait({answer, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await feeding  # raises where the source restarted or failed
            async with asyncio.timeout(patience):
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


def _read(answer: bytes, given: Given, limits: Limits) -> Applied | Exception | None:
    try:
        return protocol.read_answer(answer, given.report, limits)
    finally:
        given.close()


async def _pump(worker: Worker, watch: SourceWatch, epoch: int) -> None:
    """Tell the worker of every watermark until all bytes are there."""
    while True:
        _check(watch, epoch)
        state = watch.state
        assert not isinstance(state, Failed)
        complete = isinstance(state, Complete)
        heard = await worker.tell(protocol.watermark(state.size, complete=complete))
        if complete or not heard:
            return
        await watch.changed()


async def _settled(watch: SourceWatch, epoch: int) -> None:
    """Wait until it is known whether the bytes were the right ones."""
    while not isinstance(watch.state, Complete):
        _check(watch, epoch)
        await watch.changed()
    _check(watch, epoch)


def _check(watch: SourceWatch, epoch: int) -> None:
    if watch.epoch != epoch:
        raise _Restarted
    if isinstance(watch.state, Failed):
        raise SourceFailedError(f"the layer's bytes stopped arriving: {watch.state.reason}")


def _death(status: int | None, said: WorkerDiedError | None, answer: bytes) -> str:
    if status is None:
        return "its parent process ended"
    if status == -9:
        return "killed by signal 9, often by the kernel for want of memory"
    if status < 0:
        return f"killed by signal {-status}"
    if said is not None:
        return str(said)
    if answer:
        return "it gave an answer that cannot be read"
    return f"it ended with status {status} and without an answer"
