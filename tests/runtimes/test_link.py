"""The link to containerd, where our own side fails or ends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from cri_imaged.limits import Limits
from cri_imaged.obs.runtime_metrics import RuntimesMetrics
from cri_imaged.process import background
from cri_imaged.rpc.containerd.events import events_pb2, events_pb2_grpc
from cri_imaged.rpc.containerd.images import images_pb2, images_pb2_grpc
from cri_imaged.rpc.containerd.leases import leases_pb2, leases_pb2_grpc
from cri_imaged.rpc.containerd.version import version_pb2, version_pb2_grpc
from cri_imaged.runtimes.containerd.client import Containerd, ContainerdError
from cri_imaged.runtimes.containerd.leftovers import Leftovers
from cri_imaged.runtimes.containerd.link import ContainerdLink
from cri_imaged.runtimes.containerd.registration import Registration
from cri_imaged.runtimes.images import ImageReader
from tests.images.workbench import Bench, until


class Peer(
    version_pb2_grpc.VersionServicer, events_pb2_grpc.EventsServicer, images_pb2_grpc.ImagesServicer
):
    """As much of containerd as a link asks that has nothing to tell it."""

    def __init__(self) -> None:
        self.connected = 0

    async def Version(self, request: Any, context: Any) -> version_pb2.VersionResponse:  # noqa: N802
        self.connected += 1
        return version_pb2.VersionResponse(version="v2")

    async def List(self, request: Any, context: Any) -> images_pb2.ListImagesResponse:  # noqa: N802
        return images_pb2.ListImagesResponse()

    async def Subscribe(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[events_pb2.Envelope]:
        await asyncio.Event().wait()
        yield events_pb2.Envelope()


class Leases(leases_pb2_grpc.LeasesServicer):
    """None is left."""

    async def List(self, request: Any, context: Any) -> leases_pb2.ListResponse:  # noqa: N802
        return leases_pb2.ListResponse()


@asynccontextmanager
async def serving(peer: Peer, socket: Path) -> AsyncIterator[None]:
    """Serve `peer` while the context lasts."""
    server = grpc.aio.server()
    version_pb2_grpc.add_VersionServicer_to_server(peer, server)
    events_pb2_grpc.add_EventsServicer_to_server(peer, server)
    images_pb2_grpc.add_ImagesServicer_to_server(peer, server)
    leases_pb2_grpc.add_LeasesServicer_to_server(Leases(), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def link_to(socket: Path, bench: Bench, bring: Callable[[str], Awaitable[None]]) -> ContainerdLink:
    """It needs one image, which is not here."""
    stores, client = bench.parts.base.stores, Containerd(socket, "test")
    reader = ImageReader(stores.database, stores.content, Limits(), lambda _: False, [])
    return ContainerdLink(
        client,
        Registration(client, {}, follow_cri=False),
        Leftovers(client, {}, reader.chains),
        reader,
        RuntimesMetrics(CollectorRegistry()).of(ContainerdLink.name),
        required=["r.example/pause:1"],
        bring=bring,
    )


async def test_a_store_that_cannot_be_read_for_a_while_does_not_end_the_link(
    bench: Bench, tmp_path: Path
) -> None:
    peer, socket, read = Peer(), tmp_path / "containerd.sock", asyncio.Event()

    async def bring(name: str) -> None:
        """That it is asked for shows that the store could be read."""
        read.set()

    link = link_to(socket, bench, bring)
    with closing(sqlite3.connect(bench.root / "metadata.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE names RENAME TO gone")
        async with serving(peer, socket), background(link.run()):
            await until(lambda: "no such table" in link.status().problem)
            await until(lambda: peer.connected > 1)
            assert not read.is_set()
            database.execute("ALTER TABLE gone RENAME TO names")
            await until(read.is_set)


async def test_the_link_ends_when_it_is_told_to_though_a_call_to_containerd_fails_just_then(
    bench: Bench, tmp_path: Path
) -> None:
    socket, at_work, fails = tmp_path / "containerd.sock", asyncio.Event(), True

    async def bring(name: str) -> None:
        at_work.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if fails:
                raise ContainerdError("it went away", unreachable=True) from None
            raise

    async with serving(Peer(), socket):
        running = asyncio.create_task(link_to(socket, bench, bring).run())
        await at_work.wait()
        running.cancel()
        ended, _ = await asyncio.wait([running], timeout=30)
        fails = False
        running.cancel()
        await asyncio.wait([running])
    assert ended
    assert running.cancelled()
