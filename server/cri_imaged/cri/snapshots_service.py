"""containerd's snapshots API, as a proxy plugin serves it to containerd."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from google.protobuf.empty_pb2 import Empty

from cri_imaged.cri.filters import matcher
from cri_imaged.errors import NotFoundError
from cri_imaged.ports import Mount, RuntimeSnapshot, RuntimeSnapshots, SnapshotKind
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2 as api
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2_grpc
from cri_imaged.rpc.containerd.types import types_pb2 as types

_LIST_BATCH = 100
_KINDS = {
    SnapshotKind.VIEW: api.VIEW,
    SnapshotKind.ACTIVE: api.ACTIVE,
    SnapshotKind.COMMITTED: api.COMMITTED,
}


class SnapshotsService(snapshots_pb2_grpc.SnapshotsServicer):
    """One service for all snapshotters: containerd names in each request the plugin it means."""

    def __init__(self, plugins: Mapping[str, RuntimeSnapshots]) -> None:
        """`plugins`: by the name that containerd's configuration gives each."""
        self._plugins = plugins

    def _plugin(self, name: str) -> RuntimeSnapshots:
        try:
            return self._plugins[name]
        except KeyError:
            served = ", ".join(self._plugins)
            raise NotFoundError(
                f"there is no snapshotter {name!r} here, only {served}: name the proxy plugin in "
                "containerd's configuration so"
            ) from None

    async def Prepare(  # noqa: N802
        self, request: api.PrepareSnapshotRequest, context: Any
    ) -> api.PrepareSnapshotResponse:
        """See snapshots.proto."""
        plugin = self._plugin(request.snapshotter)
        mounts = await plugin.prepare(request.key, request.parent, dict(request.labels))
        return api.PrepareSnapshotResponse(mounts=_mounts(mounts))

    async def View(  # noqa: N802
        self, request: api.ViewSnapshotRequest, context: Any
    ) -> api.ViewSnapshotResponse:
        """See snapshots.proto."""
        plugin = self._plugin(request.snapshotter)
        mounts = await plugin.view(request.key, request.parent, dict(request.labels))
        return api.ViewSnapshotResponse(mounts=_mounts(mounts))

    async def Mounts(  # noqa: N802
        self, request: api.MountsRequest, context: Any
    ) -> api.MountsResponse:
        """See snapshots.proto."""
        mounts = await self._plugin(request.snapshotter).mounts(request.key)
        return api.MountsResponse(mounts=_mounts(mounts))

    async def Commit(  # noqa: N802
        self, request: api.CommitSnapshotRequest, context: Any
    ) -> Empty:
        """See snapshots.proto."""
        plugin = self._plugin(request.snapshotter)
        await plugin.commit(request.name, request.key, dict(request.labels))
        return Empty()

    async def Remove(  # noqa: N802
        self, request: api.RemoveSnapshotRequest, context: Any
    ) -> Empty:
        """See snapshots.proto."""
        await self._plugin(request.snapshotter).remove(request.key)
        return Empty()

    async def Stat(  # noqa: N802
        self, request: api.StatSnapshotRequest, context: Any
    ) -> api.StatSnapshotResponse:
        """See snapshots.proto."""
        found = await self._plugin(request.snapshotter).stat(request.key)
        return api.StatSnapshotResponse(info=_info(found))

    async def Update(  # noqa: N802
        self, request: api.UpdateSnapshotRequest, context: Any
    ) -> api.UpdateSnapshotResponse:
        """See snapshots.proto."""
        updated = await self._plugin(request.snapshotter).update(
            request.info.name, dict(request.info.labels), list(request.update_mask.paths)
        )
        return api.UpdateSnapshotResponse(info=_info(updated))

    async def List(  # noqa: N802
        self, request: api.ListSnapshotsRequest, context: Any
    ) -> AsyncIterator[api.ListSnapshotsResponse]:
        """See snapshots.proto."""
        wanted = matcher(request.filters)
        found = filter(wanted, await self._plugin(request.snapshotter).list())
        while batch := list(itertools.islice(found, _LIST_BATCH)):
            yield api.ListSnapshotsResponse(info=[_info(each) for each in batch])

    async def Usage(  # noqa: N802
        self, request: api.UsageRequest, context: Any
    ) -> api.UsageResponse:
        """See snapshots.proto."""
        usage = await self._plugin(request.snapshotter).usage(request.key)
        return api.UsageResponse(size=usage.bytes, inodes=usage.inodes)

    async def Cleanup(  # noqa: N802
        self, request: api.CleanupRequest, context: Any
    ) -> Empty:
        """Nothing is left to be done: what is removed goes by itself."""
        return Empty()


def _mounts(mounts: Sequence[Mount]) -> list[types.Mount]:
    return [types.Mount(type=m.type, source=m.source, options=m.options) for m in mounts]


def _info(snapshot: RuntimeSnapshot) -> api.Info:
    info = api.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=_KINDS[snapshot.kind],
        labels=snapshot.labels,
    )
    info.created_at.FromNanoseconds(int(snapshot.created * 1e9))
    info.updated_at.FromNanoseconds(int(snapshot.updated * 1e9))
    return info
