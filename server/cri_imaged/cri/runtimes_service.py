"""Our own Runtimes service: who runs our images, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cri_imaged.errors import InUseError, NotFoundError
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.ports import LinkStatus, Runtime, RuntimeSnapshot, RuntimeSnapshots, SnapshotKind
from cri_imaged.rpc.node.v1 import runtimes_pb2 as api
from cri_imaged.rpc.node.v1 import runtimes_pb2_grpc

_KINDS = {
    SnapshotKind.VIEW: api.RUNTIME_SNAPSHOT_KIND_VIEW,
    SnapshotKind.ACTIVE: api.RUNTIME_SNAPSHOT_KIND_ACTIVE,
    SnapshotKind.COMMITTED: api.RUNTIME_SNAPSHOT_KIND_COMMITTED,
}

_MOST_FOREIGN = 100


class RuntimesService(runtimes_pb2_grpc.RuntimesServicer):
    """See runtimes.proto."""

    def __init__(self, runtimes: Mapping[str, Runtime], collector: GarbageCollector) -> None:
        self._runtimes = runtimes
        self._collector = collector

    async def ListRuntimes(  # noqa: N802
        self, request: api.ListRuntimesRequest, context: Any
    ) -> api.ListRuntimesResponse:
        """See runtimes.proto."""
        response = api.ListRuntimesResponse()
        for name, runtime in self._runtimes.items():
            link = runtime.link
            status = link.status() if link else _unconfigured(name)
            foreign = await link.foreign_images() if link else ()
            response.runtimes.add(
                name=status.name,
                version=status.version,
                up=status.up,
                since=int(status.since * 1e9),
                owed=status.owed,
                problem=status.problem,
                snapshots=sum([len(await each.list()) for each in runtime.snapshots.values()]),
                foreign_images=foreign[:_MOST_FOREIGN],
            )
        return response

    async def ListRuntimeSnapshots(  # noqa: N802
        self, request: api.ListRuntimeSnapshotsRequest, context: Any
    ) -> api.ListRuntimeSnapshotsResponse:
        """See runtimes.proto."""
        response = api.ListRuntimeSnapshotsResponse()
        for name, runtime in self._runtimes.items():
            for snapshotter, snapshots in runtime.snapshots.items():
                for snapshot in await snapshots.list():
                    try:
                        message = await _message(snapshots, snapshot)
                    except NotFoundError:
                        continue  # the runtime has removed it meanwhile
                    message.runtime, message.snapshotter = name, snapshotter
                    response.snapshots.append(message)
        return response

    async def ForgetRuntime(  # noqa: N802
        self, request: api.ForgetRuntimeRequest, context: Any
    ) -> api.ForgetRuntimeResponse:
        """See runtimes.proto."""
        runtime = self._runtimes.get(request.name)
        if runtime is None:
            known = ", ".join(self._runtimes) or "none"
            raise NotFoundError(f"there is no runtime {request.name!r} here; known: {known}")
        if runtime.link is not None and runtime.link.status().up:
            raise InUseError(
                f"{request.name} is connected: stop it for good before it is forgotten"
            )
        forgotten = 0
        for snapshots in runtime.snapshots.values():
            forgotten += len(await snapshots.list())
            await snapshots.forget()
        self._collector.trigger()
        return api.ForgetRuntimeResponse(snapshots=forgotten)


def _unconfigured(name: str) -> LinkStatus:
    return LinkStatus(name, "", False, 0, 0, "the configuration does not name it any more")


async def _message(snapshots: RuntimeSnapshots, snapshot: RuntimeSnapshot) -> api.RuntimeSnapshot:
    message = api.RuntimeSnapshot(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=_KINDS[snapshot.kind],
        chain_id=snapshot.chain_id or "",
        created_at=int(snapshot.created * 1e9),
    )
    if snapshot.kind is SnapshotKind.ACTIVE:
        usage = await snapshots.usage(snapshot.name)
        message.bytes, message.inodes = usage.bytes, usage.inodes
    return message
