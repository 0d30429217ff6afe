"""Our own Node service: what CRI has no word for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cri_imaged.cri.convert import event_message
from cri_imaged.errors import InvalidRequestError
from cri_imaged.images.check import Checker
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.progress import LayerProgress, Phase, PullProgress, RunningPulls
from cri_imaged.images.views import Views
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
    Phase.FAILED: node.PULL_PHASE_FAILED,
}
_LAYER_PHASES = {
    Phase.WAITING: node.LAYER_PHASE_WAITING,
    Phase.FETCHING: node.LAYER_PHASE_FETCHING,
    Phase.UNPACKING: node.LAYER_PHASE_UNPACKING,
    Phase.DONE: node.LAYER_PHASE_DONE,
}


class NodeService(node_pb2_grpc.NodeServicer):
    """Progress, views and garbage collection."""

    def __init__(
        self, running: RunningPulls, views: Views, collector: GarbageCollector, checker: Checker
    ) -> None:
        self._running = running
        self._views = views
        self._collector = collector
        self._checker = checker

    async def WatchPulls(  # noqa: N802
        self, request: node.WatchPullsRequest, context: Any
    ) -> AsyncIterator[node.WatchPullsResponse]:
        """See node.proto."""
        wanted = request.reference and str(Reference.parse(request.reference).canonical())
        quiet = False
        while True:
            pulls = [p for p in self._running.list() if not wanted or p.reference == wanted]
            if pulls or not quiet:
                yield node.WatchPullsResponse(pulls=[_pull(pull) for pull in pulls])
            quiet = not pulls
            if quiet and (request.until_idle or self._running.closing):
                return
            await asyncio.sleep(_PERIOD)

    async def CreateView(  # noqa: N802
        self, request: node.CreateViewRequest, context: Any
    ) -> node.CreateViewResponse:
        """See node.proto."""
        if not request.key:
            raise InvalidRequestError("a view needs a key")
        image, mounts = await self._views.create(
            request.image, request.runtime_handler, request.key, writable=request.writable
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
            yield event_message(event)


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
            digest=layer.digest,
            size=layer.size,
            fetched=layer.fetched(),
            unpacked=layer.unpacked(),
            phase=_LAYER_PHASES[layer.phase],
        )
        for layer in layers
    ]
