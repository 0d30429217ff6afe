"""What a client of the Node service may make the daemon hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from cri_imaged.limits import VIEW_KEY_BYTES, WATCHERS
from cri_imaged.rpc.node.v1 import node_pb2, node_pb2_grpc
from tests.cri.test_server import serving
from tests.images.gated import GatedRegistry


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[node_pb2_grpc.NodeAsyncStub]:
    async with GatedRegistry() as registry, serving(tmp_path, registry) as client:
        yield node_pb2_grpc.NodeStub(client.channel)


@pytest.mark.parametrize("name", ["a-" * 100_000, "a." * 100_000 + "/x", "ä" * 3000])
async def test_long_names_are_refused_before_they_are_read(
    node: node_pb2_grpc.NodeAsyncStub, name: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"image reference of \d+ (bytes|characters)"):
        await node.CreateView(node_pb2.CreateViewRequest(image=name, key="k"))
    with pytest.raises(grpc.aio.AioRpcError, match=r"image reference of \d+ (bytes|characters)"):
        await anext(aiter(node.WatchPulls(node_pb2.WatchPullsRequest(reference=name))))


async def test_a_long_key_is_refused(node: node_pb2_grpc.NodeAsyncStub) -> None:
    key = "k" * (VIEW_KEY_BYTES + 1)
    with pytest.raises(grpc.aio.AioRpcError, match="view's key"):
        await node.CreateView(node_pb2.CreateViewRequest(image="a", key=key))


async def test_more_watchers_than_the_limit_are_refused_until_some_leave(
    node: node_pb2_grpc.NodeAsyncStub,
) -> None:
    watching = [node.WatchPulls(node_pb2.WatchPullsRequest()) for _ in range(WATCHERS)]
    for watcher in watching:
        await anext(aiter(watcher))
    with pytest.raises(grpc.aio.AioRpcError, match="watch pulls already") as refused:
        await anext(aiter(node.WatchPulls(node_pb2.WatchPullsRequest())))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for watcher in watching:
        watcher.cancel()
    async with asyncio.timeout(30):
        while True:
            try:
                await anext(aiter(node.WatchPulls(node_pb2.WatchPullsRequest())))
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
