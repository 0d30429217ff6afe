"""What running pulls have done so far, for those who watch."""

from __future__ import annotations

import asyncio
import enum
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from cri_imaged.errors import ImagedError, RegistryError
from cri_imaged.images.events import Events, PullBegan, PullEnded, PullProgressed, Stopping
from cri_imaged.images.reports import Cause, LayerReport, PullReport, reason_of
from cri_imaged.images.timeline import Timeline
from cri_imaged.obs.tracing import Origin
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account

_NO_CAUSE = Cause()


class Phase(enum.Enum):
    """Where a pull or a layer is."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    FETCHING = "fetching"
    UNPACKING = "unpacking"
    DONE = "done"


class Arrivals(Protocol):
    """What of a pull's layers has arrived."""

    @property
    def received(self) -> int:
        """Bytes that came over the network."""
        ...

    def bytes_here(self, layer: Descriptor) -> int:
        """Compressed bytes of a layer that are here, whoever fetched them."""
        ...

    def is_unpacked(self, chain_id: Digest) -> bool:
        """Whether a layer's snapshot is there."""
        ...

    def report(self, layer: Descriptor, chain_id: Digest | None, began: float) -> LayerReport:
        """What was done for a layer, for a pull that was asked for at `began` (monotonic)."""
        ...


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """One layer of a running pull."""

    layer: Descriptor
    chain_id: Digest | None
    """None for a blob that is not unpacked."""
    arrivals: Arrivals

    @property
    def fetched(self) -> int:
        """Compressed bytes that are here, whoever fetched them."""
        return self.arrivals.bytes_here(self.layer)

    @property
    def unpacked(self) -> bool:
        """Whether its snapshot is there."""
        if self.chain_id is None:
            return self.fetched >= self.layer.size
        return self.arrivals.is_unpacked(self.chain_id)

    @property
    def phase(self) -> Phase:
        """Derived from the figures."""
        if self.unpacked:
            return Phase.DONE
        if self.fetched >= self.layer.size:
            return Phase.UNPACKING
        return Phase.FETCHING if self.fetched else Phase.WAITING


@dataclass(slots=True)
class PullProgress:
    """One running pull."""

    id: str
    reference: str
    handler: str
    events: Events
    cause: Cause
    began: float
    """Monotonic."""
    started: float = field(default_factory=time.time)
    """Unix seconds."""
    phase: Phase = Phase.WAITING
    is_resolved: bool = False
    """Whether the registry has said what the reference stands for."""
    layers: list[LayerProgress] = field(default_factory=list)
    snapshotter: str = ""
    image_id: str = ""
    """Once it is ready."""
    image_bytes: int = 0
    warnings: tuple[str, ...] = ()
    account: Account = field(default_factory=Account)
    """Of the resolving."""
    timeline: Timeline = field(default_factory=Timeline)

    def enter(self, phase: Phase) -> None:
        """The pull has come to its next phase."""
        self.phase = phase
        self.timeline.enter(phase.value)
        self.events.publish(PullProgressed(self.id, phase.value))

    @property
    def stage(self) -> Phase:
        """The phase, told apart by what has arrived while layers come in."""
        if self.phase is Phase.FETCHING and self.layers and self.fetched >= self.total:
            return Phase.UNPACKING
        return self.phase

    @property
    def total(self) -> int:
        """Compressed bytes of all layers."""
        return sum(layer.layer.size for layer in self.layers)

    @property
    def fetched(self) -> int:
        """Compressed bytes of all layers that are here."""
        return sum(layer.fetched for layer in self.layers)

    @property
    def awaited(self) -> int | None:
        """What has come of what a registry is to send; None while it is to send nothing."""
        return None if self.stage in (Phase.WAITING, Phase.UNPACKING) else self.received

    @property
    def received(self) -> int:
        """Bytes of layers that came over the network."""
        return self.layers[0].arrivals.received if self.layers else 0


class RunningPulls:
    """The pulls under way. Tells `events` when one begins and how it ends, however it does."""

    def __init__(self, events: Events, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._pulls: dict[str, PullProgress] = {}
        self._numbers = itertools.count(1)
        self.traced = False
        """Whether pulls of clients that have no trace get one of their own."""
        self.stopping = False
        """Whether the daemon stops: there is nothing to watch once these have ended."""

    @contextmanager
    def track(
        self, reference: str, handler: str, cause: Cause = _NO_CAUSE
    ) -> Iterator[PullProgress]:
        """Show a pull while the context lasts. It has succeeded where it got to its end."""
        number = str(next(self._numbers))
        if self.traced:
            trace = cause.trace or Origin(secrets.token_hex(16), "", sampled=True)
            cause = replace(cause, trace=replace(trace, span_id=secrets.token_hex(8)))
        progress = PullProgress(number, reference, handler, self._events, cause, self._clock())
        progress.timeline.enter(Phase.WAITING.value)
        self._pulls[progress.id] = progress
        self._events.publish(PullBegan(progress.id, reference, handler))
        failure: BaseException | None = None
        try:
            yield progress
        except BaseException as error:
            failure = error
            raise
        finally:
            del self._pulls[progress.id]
            progress.timeline.end()
            self._events.publish(PullEnded(progress.id, _report(progress, failure, self._clock())))

    def stop(self) -> None:
        """The daemon stops: tell those who watch."""
        self.stopping = True
        self._events.publish(Stopping())

    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(pull.phase is Phase.WAITING for pull in self._pulls.values())

    def list(self) -> list[PullProgress]:
        """The pulls under way, oldest first."""
        return list(self._pulls.values())


def _report(progress: PullProgress, failure: BaseException | None, now: float) -> PullReport:
    if failure is None:
        outcome = "success"
    else:
        outcome = "cancelled" if isinstance(failure, asyncio.CancelledError) else "failure"
    began = progress.began
    if isinstance(failure, RegistryError) and not progress.account.hosts:
        for attempt in failure.attempts:  # nobody resolved the name
            progress.account.count(attempt)
    return PullReport(
        reference=progress.reference,
        handler=progress.handler,
        began=progress.started,
        seconds=now - began,
        outcome=outcome,
        pod=progress.cause.pod,
        trace=progress.cause.trace,
        snapshotter=progress.snapshotter,
        image_id=progress.image_id,
        image_bytes=progress.image_bytes,
        received=progress.received,
        warnings=progress.warnings,
        reason=reason_of(failure),
        error=str(failure) if isinstance(failure, ImagedError) else "",
        stages=progress.timeline.since(began),
        account=progress.account,
        layers=tuple(
            layer.arrivals.report(layer.layer, layer.chain_id, began) for layer in progress.layers
        ),
    )
