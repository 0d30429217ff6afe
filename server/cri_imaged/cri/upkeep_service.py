"""Our own Upkeep service: what the node brings in and lets go by itself."""

from __future__ import annotations

from typing import Any

from cri_imaged.images.policy.collector import ImageCollector
from cri_imaged.images.policy.decide import Removal
from cri_imaged.images.preload.shown import Preload, Shown, State
from cri_imaged.rpc.node.v1 import upkeep_pb2 as api
from cri_imaged.rpc.node.v1 import upkeep_pb2_grpc

_STATES = {
    State.WAITING: api.PRELOAD_STATE_WAITING,
    State.WORKING: api.PRELOAD_STATE_WORKING,
    State.READY: api.PRELOAD_STATE_READY,
    State.FAILED: api.PRELOAD_STATE_FAILED,
    State.REMOVED: api.PRELOAD_STATE_REMOVED,
}


class UpkeepService(upkeep_pb2_grpc.UpkeepServicer):
    """See upkeep.proto."""

    def __init__(self, archives: Shown, images: Shown, collector: ImageCollector) -> None:
        self._archives = archives
        self._images = images
        self._collector = collector

    async def ListPreloads(  # noqa: N802
        self, request: api.ListPreloadsRequest, context: Any
    ) -> api.ListPreloadsResponse:
        """See upkeep.proto."""
        return api.ListPreloadsResponse(
            preloads=[
                *(_preload(each, api.PRELOAD_KIND_ARCHIVE) for each in self._archives),
                *(_preload(each, api.PRELOAD_KIND_IMAGE) for each in self._images),
            ],
            folder_problem=self._archives.problem,
        )

    async def CollectImages(  # noqa: N802
        self, request: api.CollectImagesRequest, context: Any
    ) -> api.CollectImagesResponse:
        """See upkeep.proto."""
        removals = await self._collector.collect(dry_run=request.dry_run)
        return api.CollectImagesResponse(
            removals=[_removal(each) for each in removals], enabled=self._collector.rules.wanted
        )


def _preload(preload: Preload, kind: api.PreloadKind.ValueType) -> api.Preload:
    return api.Preload(
        kind=kind,
        name=preload.name,
        runtime_handler=preload.handler,
        state=_STATES[preload.state],
        images=preload.images,
        problem=preload.problem,
        since=int(preload.since * 1e9),
    )


def _removal(removal: Removal) -> api.ImageRemoval:
    image = removal.image
    return api.ImageRemoval(
        image_id=image.id,
        runtime_handler=image.handler,
        names=sorted(name for name in image.names if name != image.id),
        last_used=int(image.last_used * 1e9),
        reason=removal.reason,
        bytes=removal.bytes,
    )
