"""A client of containerd's snapshots API, with our own values, errors and deadlines."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cri_imaged.errors import (
    AlreadyExistsError,
    ImagedError,
    InUseError,
    NotFoundError,
    ProxyFailedError,
    UnsupportedContentError,
)
from cri_imaged.limits import PROXY_CLAIM_SECONDS, PROXY_SECONDS, PROXY_SNAPSHOTS
from cri_imaged.ports import Mount, SnapshotKind, Usage
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2 as api
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2_grpc

OUR_LABEL = "io.cri-imaged.snapshot"
"""On all that we have a proxy make: nothing else is ever removed there."""
_OURS = {
    OUR_LABEL: "true",
    # Where a containerd serves the API, its collector takes this for its own reason to keep it.
    "containerd.io/gc.root": "cri-imaged",
}
_NAMESPACE = ("containerd-namespace", "k8s.io")
"""What proxies are asked in by containerd's CRI plugin."""
_LONGEST_ERROR = 1024
_KINDS = {api.VIEW: SnapshotKind.VIEW, api.ACTIVE: SnapshotKind.ACTIVE}
_ERRORS: dict[grpc.StatusCode, type[ImagedError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: InUseError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedContentError,
}


@dataclass(frozen=True, slots=True)
class ProxySnapshot:
    """A snapshot as a proxy tells of it."""

    name: str
    parent: str
    kind: SnapshotKind
    ours: bool
    """Whether we had it made."""


class ProxyClient:
    """One connection, made when it is first needed, and again by gRPC.

    Every verb raises `ProxyFailedError` where the proxy cannot be reached, does not answer in time,
    or fails; `NotFoundError`, `AlreadyExistsError` and `InUseError` are its own words.
    """

    def __init__(self, name: str, address: Path | None) -> None:
        """Without an address nobody is there."""
        self._name = name
        self._address = address
        self._channel: grpc.aio.Channel | None = None

    async def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            await self._channel.close()

    async def prepare(
        self, key: str, parent: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        """Begin a writable snapshot on the committed `parent`, or on nothing for "". With `labels`
        that say which layer is meant, it may know it: `AlreadyExistsError`."""
        request = api.PrepareSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels={**(labels or {}), **_OURS}
        )
        seconds = PROXY_CLAIM_SECONDS if labels else PROXY_SECONDS
        return _mounts(await self._call("Prepare", request, seconds))

    async def view(self, key: str, parent: str) -> Sequence[Mount]:
        """As `prepare`, read-only."""
        request = api.ViewSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels=_OURS
        )
        return _mounts(await self._call("View", request))

    async def mounts(self, key: str) -> Sequence[Mount]:
        """The mounts of a view or a writable snapshot again."""
        request = api.MountsRequest(snapshotter=self._name, key=key)
        return _mounts(await self._call("Mounts", request))

    async def commit(self, name: str, key: str) -> None:
        """Finish the writable `key` as `name`."""
        request = api.CommitSnapshotRequest(
            snapshotter=self._name, name=name, key=key, labels=_OURS
        )
        await self._call("Commit", request)

    async def remove(self, name: str) -> None:
        """Remove a snapshot. What is not there is done with."""
        try:
            request = api.RemoveSnapshotRequest(snapshotter=self._name, key=name)
            await self._call("Remove", request)
        except NotFoundError:
            pass

    async def clean_up(self) -> None:
        """Have it do what it puts off when something is removed."""
        with contextlib.suppress(UnsupportedContentError):  # it puts nothing off
            await self._call("Cleanup", api.CleanupRequest(snapshotter=self._name))

    async def stat(self, name: str) -> ProxySnapshot | None:
        """One snapshot, or None."""
        try:
            request = api.StatSnapshotRequest(snapshotter=self._name, key=name)
            return _snapshot((await self._call("Stat", request)).info)
        except NotFoundError:
            return None

    async def usage(self, name: str) -> Usage:
        """What a snapshot alone takes."""
        request = api.UsageRequest(snapshotter=self._name, key=name)
        told = await self._call("Usage", request)
        return Usage(max(0, told.size), max(0, told.inodes))

    async def list(self) -> Sequence[ProxySnapshot]:
        """All that it has in our namespace."""
        request = api.ListSnapshotsRequest(snapshotter=self._name)
        found: list[ProxySnapshot] = []
        try:
            async for batch in self._stub().List(
                request, metadata=[_NAMESPACE], timeout=PROXY_SECONDS
            ):
                found += map(_snapshot, batch.info)
                if len(found) > PROXY_SNAPSHOTS:
                    raise ProxyFailedError(
                        f"proxy snapshotter {self._name}: lists over {PROXY_SNAPSHOTS} snapshots"
                    )
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None
        return found

    async def _call(self, verb: str, request: Any, seconds: float = PROXY_SECONDS) -> Any:
        try:
            method = getattr(self._stub(), verb)
            return await method(request, metadata=[_NAMESPACE], timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None

    def _stub(self) -> Any:
        if self._address is None:
            raise ProxyFailedError(
                f"proxy snapshotter {self._name} is configured no more (proxy_snapshotters."
                f"{self._name}); pull its images again"
            )
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"unix:{self._address}",
                options=[
                    ("grpc.max_reconnect_backoff_ms", 1000),
                    # The socket's path is no name that a virtual host could have.
                    ("grpc.default_authority", "localhost"),
                ],
            )
        return snapshots_pb2_grpc.SnapshotsStub(self._channel)

    def _told(self, error: grpc.aio.AioRpcError) -> ImagedError:
        code, details = error.code(), (error.details() or "")[:_LONGEST_ERROR]
        kind = _ERRORS.get(code, ProxyFailedError)
        return kind(
            f"proxy snapshotter {self._name} at {self._address}: "
            + (details if kind is not ProxyFailedError else f"{code.name}: {details}")
        )


def _mounts(answer: Any) -> Sequence[Mount]:
    return [Mount(each.type, each.source, tuple(each.options)) for each in answer.mounts]


def _snapshot(info: api.Info) -> ProxySnapshot:
    kind = _KINDS.get(info.kind, SnapshotKind.COMMITTED)
    return ProxySnapshot(info.name, info.parent, kind, OUR_LABEL in info.labels)
