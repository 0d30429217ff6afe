"""Our own Node service: what CRI has no word for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from cri_imaged.cri import convert
from cri_imaged.cri.names import ClientNames
from cri_imaged.errors import InvalidRequestError, QueueFullError
from cri_imaged.images.events import Events
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.health.check import Checker
from cri_imaged.images.pinning import Pinner
from cri_imaged.images.pull.progress import LayerProgress, Phase, PullProgress, RunningPulls
from cri_imaged.images.views import Views
from cri_imaged.limits import VIEW_KEY_BYTES, WATCHERS
from cri_imaged.oci.reference import Reference
from cri_imaged.rpc.node.v1 import node_pb2 as node
from cri_imaged.rpc.node.v1 import node_pb2_grpc

_PERIOD = 0.2

_PULL_PHASES = {
    Phase.WAITING: node.PULL_PHASE_WAITING,
    Phase.RESOLVING: node.PULL_PHASE_RESOLVING,
    Phase.FETCHING: node.PULL_PHASE_FETCHING,
    Phase.UNPACKING: node.PULL_PHASE_UNPACKING,
    Phase.DONE: node.PULL_PHASE_DONE,
}
_LAYER_PHASES = {
    Phase.WAITING: node.LAYER_PHASE_WAITING,
    Phase.FETCHING: node.LAYER_PHASE_FETCHING,
    Phase.UNPACKING: node.LAYER_PHASE_UNPACKING,
    Phase.DONE: node.LAYER_PHASE_DONE,
}


class NodeService(node_pb2_grpc.NodeServicer):
    """Progress, views, pins and garbage collection."""

    def __init__(
        self,
        *,
        running: RunningPulls,
        events: Events,
        views: Views,
        pinner: Pinner,
        collector: GarbageCollector,
        checker: Checker,
        names: ClientNames,
        reload: Callable[[], Awaitable[tuple[Sequence[str], Sequence[str]]]],
    ) -> None:
        """`reload` returns the keys that changed, and those whose change takes a restart."""
        self._running = running
        self._events = events
        self._names = names
        self._views = views
        self._pinner = pinner
        self._collector = collector
        self._checker = checker
        self._watchers = 0
        self._reload = reload

    async def WatchPulls(  # noqa: N802
        self, request: node.WatchPullsRequest, context: Any
    ) -> AsyncIterator[node.WatchPullsResponse]:
        """See node.proto. Figures come while pulls run; else the next event is waited for."""
        name = self._names.read(request.reference)
        wanted = name and str(Reference.parse(name).canonical())
        with self._watching(), self._events.subscribe() as events:
            quiet = False
            while True:
                pulls = [p for p in self._running.list() if not wanted or p.reference == wanted]
                if pulls or not quiet:
                    yield node.WatchPullsResponse(pulls=[_pull(pull) for pull in pulls])
                quiet = not pulls
                if quiet and (request.until_idle or self._running.stopping):
                    return
                await events.wait(None if quiet else _PERIOD)

    async def CreateView(  # noqa: N802
        self, request: node.CreateViewRequest, context: Any
    ) -> node.CreateViewResponse:
        """See node.proto."""
        image, mounts = await self._views.create(
            self._names.read(request.image),
            request.runtime_handler,
            _checked_key(request.key),
            writable=request.writable,
        )
        return node.CreateViewResponse(
            key=request.key,
            image_id=image.id,
            mounts=[
                node.Mount(type=mount.type, source=mount.source, options=mount.options)
                for mount in mounts
            ],
        )

    async def ReleaseView(  # noqa: N802
        self, request: node.ReleaseViewRequest, context: Any
    ) -> node.ReleaseViewResponse:
        """See node.proto."""
        await self._views.release(request.key)
        return node.ReleaseViewResponse()

    async def ListViews(  # noqa: N802
        self, request: node.ListViewsRequest, context: Any
    ) -> node.ListViewsResponse:
        """See node.proto."""
        return node.ListViewsResponse(
            views=[
                node.View(
                    key=view.key,
                    chain_id=view.chain_id or "",
                    snapshotter=snapshotter,
                    writable=view.writable,
                    created_at=int(view.created * 1e9),
                )
                for snapshotter, view in await self._views.list()
            ]
        )

    async def PinImage(  # noqa: N802
        self, request: node.PinImageRequest, context: Any
    ) -> node.PinImageResponse:
        """See node.proto."""
        name = self._names.read(request.image)
        image = await self._pinner.pin(name, request.runtime_handler)
        return node.PinImageResponse(image_id=image.id)

    async def UnpinImage(  # noqa: N802
        self, request: node.UnpinImageRequest, context: Any
    ) -> node.UnpinImageResponse:
        """See node.proto."""
        name = self._names.read(request.image)
        await self._pinner.unpin(name, request.runtime_handler)
        return node.UnpinImageResponse()

    async def CollectGarbage(  # noqa: N802
        self, request: node.CollectGarbageRequest, context: Any
    ) -> node.CollectGarbageResponse:
        """See node.proto."""
        collected = await self._collector.collect_now(resumable=request.resumable)
        return node.CollectGarbageResponse(
            blobs=collected.blobs, snapshots=collected.snapshots, bytes=collected.bytes
        )

    async def CheckStore(  # noqa: N802
        self, request: node.CheckStoreRequest, context: Any
    ) -> AsyncIterator[node.CheckStoreResponse]:
        """See node.proto."""
        async for event in self._checker.check(repair=request.repair):
            yield convert.event_message(event)

    async def ReloadConfig(  # noqa: N802
        self, request: node.ReloadConfigRequest, context: Any
    ) -> node.ReloadConfigResponse:
        """See node.proto."""
        changed, needs_restart = await self._reload()
        return node.ReloadConfigResponse(changed=changed, needs_restart=needs_restart)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        if self._watchers >= WATCHERS:
            raise QueueFullError(f"{self._watchers} clients watch pulls already, limit {WATCHERS}")
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1


def _checked_key(key: str) -> str:
    if not key:
        raise InvalidRequestError("a view needs a key")
    if len(key.encode()) > VIEW_KEY_BYTES:
        raise InvalidRequestError(
            f"a view's key of {len(key)} characters, limit {VIEW_KEY_BYTES} bytes"
        )
    return key


def _pull(pull: PullProgress) -> node.Pull:
    return node.Pull(
        id=pull.id,
        reference=pull.reference,
        runtime_handler=pull.handler,
        started_at=int(pull.started * 1e9),
        phase=_PULL_PHASES[pull.stage],
        layers=_layers(pull.layers),
        bytes_total=pull.total,
        bytes_fetched=pull.fetched,
    )


def _layers(layers: Sequence[LayerProgress]) -> list[node.Layer]:
    return [
        node.Layer(
            digest=layer.layer.digest,
            size=layer.layer.size,
            fetched=layer.fetched,
            unpacked=layer.unpacked,
            phase=_LAYER_PHASES[layer.phase],
        )
        for layer in layers
    ]
