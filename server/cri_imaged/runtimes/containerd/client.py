"""A client of containerd: the few calls that we need, with our own values and errors."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports.runtimes import REF_LABEL
from cri_imaged.rpc.containerd.content import content_pb2, content_pb2_grpc
from cri_imaged.rpc.containerd.events import events_pb2, events_pb2_grpc
from cri_imaged.rpc.containerd.images import images_pb2, images_pb2_grpc
from cri_imaged.rpc.containerd.leases import leases_pb2, leases_pb2_grpc
from cri_imaged.rpc.containerd.snapshots import snapshots_pb2, snapshots_pb2_grpc
from cri_imaged.rpc.containerd.types import types_pb2
from cri_imaged.rpc.containerd.version import version_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc

T = TypeVar("T")

_CALL_SECONDS = 10.0
_LEASE_SECONDS = 3600
_LEASE = "cri-imaged-"
_COLLECTED = "cri-imaged-collected-"
"""What is made in order to be collected."""
_POLL_SECONDS = (0.002, 0.005, 0.01, 0.02, *(0.05 for _ in range(28)))
_CRI_SECONDS = 1.5
"""Less than a pull waits: an image that containerd's CRI plugin cannot read tells nothing of
containerd."""


class ContainerdError(Exception):
    """containerd cannot be reached, or refused what was asked; the message says what."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class Event:
    """Something happened in containerd."""

    __slots__ = ("ours", "subject", "topic")

    def __init__(self, topic: str, subject: str, *, ours: bool) -> None:
        """`subject` is an image's name, a snapshot's key, a blob's digest: by the `topic`. `ours`:
        in our namespace."""
        self.topic = topic
        self.subject = subject
        self.ours = ours


class Containerd:
    """One connection, which gRPC makes again by itself."""

    def __init__(self, address: Path, namespace: str) -> None:
        self._namespace = namespace
        self._channel = grpc.aio.insecure_channel(
            f"unix:{address}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.max_receive_message_length", -1),
                # The socket's path is no name that a virtual host could have.
                ("grpc.default_authority", "localhost"),
            ],
        )
        self._content = content_pb2_grpc.ContentStub(self._channel)
        self._images = images_pb2_grpc.ImagesStub(self._channel)
        self._leases = leases_pb2_grpc.LeasesStub(self._channel)
        self._snapshots = snapshots_pb2_grpc.SnapshotsStub(self._channel)
        self._events = events_pb2_grpc.EventsStub(self._channel)
        self._version = version_pb2_grpc.VersionStub(self._channel)
        self._cri = api_pb2_grpc.ImageServiceStub(self._channel)

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def version(self) -> str:
        """containerd's version. Raises `ContainerdError`."""
        return str((await self._done(self._version.Version, Empty(), seconds=2.0)).version)

    async def begin_lease(self) -> str:
        """A lease that holds what calls under it bring in, until it is ended; after an hour it ends
        by itself. Raises `ContainerdError`."""
        lease = f"{_LEASE}{secrets.token_hex(8)}"
        expires = datetime.fromtimestamp(time.time() + _LEASE_SECONDS, UTC)
        await self._done(
            self._leases.Create,
            leases_pb2.CreateRequest(
                id=lease, labels={"containerd.io/gc.expire": expires.isoformat(timespec="seconds")}
            ),
        )
        return lease

    async def end_lease(self, lease: str) -> None:
        """Let go of what nothing else holds. Raises `ContainerdError`."""
        await self._done(self._leases.Delete, leases_pb2.DeleteRequest(id=lease))

    async def end_stale_leases(self) -> None:
        """End those of a daemon that was killed meanwhile: images that are removed would keep their
        disk space for an hour. For one that has begun none yet. Raises `ContainerdError`."""
        for each in (await self._done(self._leases.List, leases_pb2.ListRequest())).leases:
            if each.id.startswith(_LEASE):
                await self.end_lease(each.id)

    async def collect(self, snapshotters: Sequence[str]) -> None:
        """Have containerd collect its garbage, and remove what it does not know of each of
        `snapshotters`; waits for it. The end of a lease can ask for that, and only where something
        of a snapshotter goes it is looked through. Raises `ContainerdError`."""
        lease = await self.begin_lease()
        for snapshotter in snapshotters:
            request = snapshots_pb2.ViewSnapshotRequest(
                snapshotter=snapshotter, key=f"{_COLLECTED}{secrets.token_hex(8)}"
            )
            await self._done(self._snapshots.View, request, lease)
        await self._done(self._leases.Delete, leases_pb2.DeleteRequest(id=lease, sync=True))

    async def has_document(self, digest: Digest) -> bool:
        """Whether the blob is there. Raises `ContainerdError`."""
        return await self._found(self._content.Info, content_pb2.InfoRequest(digest=digest))

    async def has_snapshot(self, snapshotter: str, name: str, namespace: str = "") -> bool:
        """Whether the snapshot is there, in our namespace or another. Raises `ContainerdError`."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=name)
        return await self._found(self._snapshots.Stat, request, namespace)

    async def put_document(
        self, digest: Digest, data: bytes, labels: Mapping[str, str], lease: str
    ) -> None:
        """Write a blob with `labels`, or give them to the one that is there. Raises
        `ContainerdError`."""
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            ref=f"cri-imaged-{secrets.token_hex(8)}",
            total=len(data),
            expected=digest,
            data=data,
            labels=labels,
        )

        async def write() -> None:
            stream = self._content.Write(
                iter([request]), metadata=self._metadata(lease), timeout=_CALL_SECONDS
            )
            async for _ in stream:
                pass

        if not await _unless_present(write()):
            await self._done(
                self._content.Update,
                content_pb2.UpdateRequest(
                    info=content_pb2.Info(digest=digest, labels=labels),
                    update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
                ),
                lease,
            )

    async def adopt(self, snapshotter: str, chain_id: Digest, parent: str, lease: str) -> None:
        """Have containerd ask our proxy for `chain_id`, which has it. Raises `ContainerdError`."""
        key = f"extract-{secrets.token_hex(8)} {chain_id}"
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=parent, labels={REF_LABEL: chain_id}
        )
        if await _unless_present(self._call(self._snapshots.Prepare, request, lease)):
            # Nobody is to fill it: what is there must be found by the next try.
            remove = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
            await self._done(self._snapshots.Remove, remove, lease)
            raise ContainerdError(
                f"snapshotter {snapshotter!r} of containerd's does not know layers {chain_id}: is "
                "it the proxy plugin of this daemon?"
            )

    async def put_image(self, name: str, target: Descriptor, labels: Mapping[str, str]) -> None:
        """Make the record `name`, or have it mean `target` and bear `labels` too. Raises
        `ContainerdError`."""
        image = images_pb2.Image(
            name=name,
            labels=labels,
            target=types_pb2.Descriptor(
                media_type=target.media_type, digest=target.digest, size=target.size
            ),
        )
        create = images_pb2.CreateImageRequest(image=image)
        if not await _unless_present(self._call(self._images.Create, create)):
            paths = ["target", *(f"labels.{key}" for key in labels)]
            update = images_pb2.UpdateImageRequest(image=image, update_mask=FieldMask(paths=paths))
            await self._done(self._images.Update, update)

    async def images(self, label: str = "", value: str | None = None) -> list[images_pb2.Image]:
        """The records that bear `label` (with this `value`), or all. Raises `ContainerdError`."""
        which = f'labels."{label}"' + ("" if value is None else f'=="{value}"')
        request = images_pb2.ListImagesRequest(filters=[which] if label else [])
        return list((await self._done(self._images.List, request)).images)

    async def delete_image(self, name: str, *, collect: bool) -> None:
        """Delete the record, and, to `collect`, wait until what it held is gone. One that is not
        there is no error. Raises `ContainerdError`."""
        request = images_pb2.DeleteImageRequest(name=name, sync=collect)
        await self._found(self._images.Delete, request)

    async def wait_for_cri(self, name: str) -> None:
        """Wait until containerd's CRI plugin, which follows by events, finds image `name`. Raises
        `ContainerdError`."""
        request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CRI_SECONDS):
                for pause in _POLL_SECONDS:
                    if (await self._done(self._cri.ImageStatus, request)).HasField("image"):
                        return
                    await asyncio.sleep(pause)
        raise ContainerdError(f"containerd's CRI plugin does not show {name}, its log may say why")

    async def events(self, topics: Sequence[str]) -> AsyncIterator[Event]:
        """What happens from now on, in every namespace, but for what `collect` does. Ends by
        `ContainerdError` alone."""
        request = events_pb2.SubscribeRequest(filters=[f'topic=="{topic}"' for topic in topics])
        try:
            async for envelope in self._events.Subscribe(request, metadata=self._metadata()):
                subject = types_pb2.EventSubject.FromString(envelope.event.value)
                if not subject.name.startswith(_COLLECTED):
                    ours = envelope.namespace == self._namespace
                    yield Event(envelope.topic, subject.name, ours=ours)
        except grpc.aio.AioRpcError as error:
            raise _told(error) from None
        raise ContainerdError("containerd ended the stream of events", unreachable=True)

    def _metadata(self, lease: str = "", namespace: str = "") -> tuple[tuple[str, str], ...]:
        where = ("containerd-namespace", namespace or self._namespace)
        return (where, ("containerd-lease", lease)) if lease else (where,)

    async def _call(
        self, method: Any, request: Any, lease: str = "", seconds: float = _CALL_SECONDS
    ) -> Any:
        return await method(request, metadata=self._metadata(lease), timeout=seconds)

    async def _done(
        self, method: Any, request: Any, lease: str = "", seconds: float = _CALL_SECONDS
    ) -> Any:
        try:
            return await self._call(method, request, lease, seconds)
        except grpc.aio.AioRpcError as error:
            raise _told(error) from None

    async def _found(self, method: Any, request: Any, namespace: str = "") -> bool:
        metadata = self._metadata(namespace=namespace)
        try:
            await method(request, metadata=metadata, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise _told(error) from None
        return True


async def _unless_present(call: Awaitable[object]) -> bool:
    """Do `call`; False where it answers ALREADY_EXISTS."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.ALREADY_EXISTS:
            return False
        raise _told(error) from None
    return True


_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _told(error: grpc.aio.AioRpcError) -> ContainerdError:
    code = error.code()
    return ContainerdError(
        f"containerd: {code.name}: {error.details()}", unreachable=code in _UNREACHABLE
    )
