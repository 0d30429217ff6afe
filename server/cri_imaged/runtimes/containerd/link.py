"""containerd kept in line with our images, whatever happens to either of us.

What an image is to containerd follows from our store alone, so that being told of a change, doing
what was owed, and mending what somebody else changed are one thing: settle the image.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from cri_imaged.errors import ImagedError
from cri_imaged.obs.runtime_metrics import RuntimeMetrics
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import LinkStatus
from cri_imaged.runtimes.containerd.client import Containerd, ContainerdError
from cri_imaged.runtimes.containerd.leftovers import Leftovers
from cri_imaged.runtimes.containerd.registration import Registration
from cri_imaged.runtimes.images import ImageReader
from cri_imaged.shielding import to_the_end

log = structlog.get_logger(__name__)

PATIENCE = 2.0
"""Seconds that a pull or a removal waits for containerd."""
_RECONNECT_SECONDS = 1.0
_AGAIN_SECONDS = (1.0, 60.0)
"""Between two attempts to do what containerd refuses, from the first to the longest."""
_COMPARE_SECONDS = 60.0
_TOLD_AT_A_TIME = 4
"""Images whose documents are held to tell containerd of them."""
_SNAPSHOT_REMOVED = "/snapshot/remove"
_TOPICS = ("/images/delete", _SNAPSHOT_REMOVED, "/content/delete")


class Why(enum.Enum):
    """Why containerd is to be told of an image."""

    CHANGED = "it changed here"
    CONNECTED = "containerd was not reachable before"
    DRIFTED = "somebody else changed it in containerd"


@dataclass(frozen=True, slots=True)
class _Debt:
    number: int
    """Tells one change from the next."""
    why: Why


class ContainerdLink:
    """See `ports.RuntimeLink`."""

    name = "containerd"

    def __init__(
        self,
        client: Containerd,
        registration: Registration,
        leftovers: Leftovers,
        reader: ImageReader,
        metrics: RuntimeMetrics,
        *,
        required: Sequence[str],
        bring: Callable[[str], Awaitable[None]],
    ) -> None:
        """`required`: images that containerd needs under these names. `bring` has one of them
        pulled where it is not here."""
        self._client = client
        self._registration = registration
        self._leftovers = leftovers
        self._reader = reader
        self._metrics = metrics
        self._required = required
        self._bring = bring
        self._owed: dict[Digest, _Debt] = {}
        self._changes = 0
        self._told = asyncio.Semaphore(_TOLD_AT_A_TIME)
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()
        self._wake = asyncio.Event()
        self._up = self._was_up = False
        self._version = ""
        self._problem = "not connected yet"
        self._since = time.time()

    def status(self) -> LinkStatus:
        """See `ports.RuntimeLink`."""
        return LinkStatus(
            self.name, self._version, self._up, self._since, len(self._owed), self._problem
        )

    async def foreign_images(self) -> Sequence[str]:
        """See `ports.RuntimeLink`."""
        try:
            return await self._registration.foreign() if self._up else ()
        except ContainerdError:
            return ()

    async def images_in_use(self) -> frozenset[Digest]:
        """See `ports.RuntimeLink`: its containers' snapshots are rows of ours."""
        return frozenset()

    async def image_changed(self, image_id: Digest, handler: str) -> None:
        """See `ports.RuntimeLink`."""
        self._owe(image_id, Why.CHANGED)
        if not self._up:
            return
        try:
            async with asyncio.timeout(PATIENCE):
                await self._settle(image_id)
        except TimeoutError:
            self._failed(image_id, f"containerd did not answer within {PATIENCE:g} s", down=True)
        except ContainerdError as error:
            self._failed(image_id, str(error), down=error.unreachable)
        except ImagedError as error:
            self._failed(image_id, str(error), down=False)

    async def run(self) -> None:
        """Connect, register everything, mend what drifts; again after each loss."""
        try:
            while True:
                connected = asyncio.create_task(self._connected())
                try:
                    await asyncio.wait([connected])
                finally:
                    # Apart: a group whose task fails as it is cancelled swallows the cancellation.
                    connected.cancel()
                    await to_the_end(asyncio.gather(connected, return_exceptions=True))
                try:
                    connected.result()
                except* ContainerdError as group:
                    self._went_down(str(group.exceptions[0]))
                except* Exception as group:  # our store failed; it may be mended
                    log.exception("what containerd is to know could not be read; it is tried again")
                    self._went_down(str(group.exceptions[0]))
                await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            await self._client.close()

    async def _connected(self) -> None:
        self._version = await self._client.version()
        if not self._was_up:
            await self._client.end_stale_leases()
        self._went_up()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._compare())
            tasks.create_task(self._leftovers.run())
            tasks.create_task(self._settle_owed())
            tasks.create_task(self._bring_required())

    async def _watch(self) -> None:
        """Hear of what others change. What we changed ourselves is found to be in line."""
        async for event in self._client.events(_TOPICS):
            if event.topic == _SNAPSHOT_REMOVED:
                self._leftovers.removed(event.subject)
            if not event.ours:
                continue
            for image_id in await self._reader.touched(event.subject):
                log.warning(
                    "containerd was made to lose a part of an image",
                    image=image_id,
                    topic=event.topic,
                    what=event.subject,
                )
                self._owe(image_id, Why.DRIFTED)

    async def _compare(self) -> None:
        """First everything, then the records: events may have been missed."""
        names = await self._reader.names()
        registered = await self._registration.registered()
        for image_id in {*names.values(), *registered.values()}:
            self._owe(Digest(image_id), Why.CONNECTED)
        while True:
            await asyncio.sleep(_COMPARE_SECONDS)
            names = await self._reader.names()
            registered = await self._registration.registered()
            for _, image_id in names.items() ^ registered.items():
                self._owe(Digest(image_id), Why.DRIFTED)

    async def _settle_owed(self) -> None:
        first, longest = _AGAIN_SECONDS
        pause = first
        while True:
            self._wake.clear()
            for image_id in list(self._owed):
                try:
                    await self._settle(image_id)
                except ContainerdError as error:
                    if error.unreachable:
                        raise
                    self._failed(image_id, str(error), down=False)
                except ImagedError as error:
                    self._failed(image_id, str(error), down=False)
            if not self._owed:
                pause, self._problem = first, ""
                await self._wake.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                pause = min(2 * pause, longest)

    async def _bring_required(self) -> None:
        while True:
            names = await self._reader.names()
            for name in self._required:
                if name not in names:
                    await self._bring(name)
            await asyncio.sleep(_COMPARE_SECONDS)

    async def _settle(self, image_id: Digest) -> None:
        """Have containerd know of one image what our store says.

        Raises:
            ContainerdError: it could not be told.
            ImagedError: the image is damaged.
        """
        async with self._locks.setdefault(image_id, asyncio.Lock()), self._told:
            debt = self._owed.get(image_id)
            if debt is None:
                return
            image = await self._reader.read(image_id)
            began = time.monotonic()
            if image is not None:
                changed = await self._registration.register(image)
            else:
                changed = await self._registration.unregister(image_id)
            if changed:
                self._metrics.seconds.observe(time.monotonic() - began)
                log.info(
                    "containerd is in line with an image",
                    image=image_id,
                    known=image is not None,
                    names=list(image.names) if image else [],
                    because=debt.why.value,
                    seconds=round(time.monotonic() - began, 4),
                )
        if self._owed.get(image_id) == debt:
            del self._owed[image_id]
            self._metrics.owed.set(len(self._owed))
        if not self._up:
            self._went_up()

    def _owe(self, image_id: Digest, why: Why) -> None:
        self._changes += 1
        self._owed[image_id] = _Debt(self._changes, why)
        self._metrics.owed.set(len(self._owed))
        self._wake.set()

    def _failed(self, image_id: Digest, problem: str, *, down: bool) -> None:
        self._metrics.failures.inc()
        log.warning(
            "containerd will be told of an image later",
            image=image_id,
            owed=len(self._owed),
            error=problem,
        )
        if down:
            self._went_down(problem)
        self._problem = problem

    def _went_up(self) -> None:
        if not self._up:
            self._since = time.time()
            log.info("containerd is there", version=self._version)
        self._up, self._was_up, self._problem = True, True, ""
        self._metrics.up.set(1)

    def _went_down(self, problem: str) -> None:
        if self._up:
            self._since = time.time()
            log.warning("containerd is not reachable", error=problem, owed=len(self._owed))
        self._up, self._problem = False, problem
        self._metrics.up.set(0)
