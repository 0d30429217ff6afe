"""Events over the real socket, to two who listen at once, and the history that they leave."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator

import grpc
import pytest

from cri_imaged.rpc.node.v1 import history_pb2, history_pb2_grpc
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Image, image, layer

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _empty_store(empty_daemon: Daemon) -> None:
    """Every test here begins with no image."""


async def kinds(stream: AsyncIterator[history_pb2.WatchEventsResponse], count: int) -> list[str]:
    found = []
    async for message in stream:
        found.append(message.WhichOneof("event") or "")
        if len(found) == count:
            break
    return found


async def test_two_listen_at_once_and_the_slow_one_holds_nobody_up(
    daemon: Daemon, registry: DockerRegistry
) -> None:
    """The slow one reads nothing meanwhile."""
    reference = registry.push(image(layer({}), User="x" * 1000), "events/app:v1")
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(daemon.endpoint, options=options) as channel:
        stub = history_pb2_grpc.HistoryStub(channel)
        slow = stub.WatchEvents(history_pb2.WatchEventsRequest())
        assert await kinds(slow, 1) == [""]
        quick = stub.WatchEvents(history_pb2.WatchEventsRequest())
        assert await kinds(quick, 1) == [""]
        await asyncio.to_thread(daemon.pull, reference)
        await asyncio.to_thread(daemon.remove, reference)
        assert await kinds(quick, 4) == [
            "pull_began",
            "image_created",
            "pull_ended",
            "image_deleted",
        ]

        async def busy() -> None:
            for _ in range(50):
                await asyncio.to_thread(daemon.pull, reference)

        # The quick one keeps up with the pulls, each of which tells two things.
        both = asyncio.gather(kinds(quick, 101), busy())
        async with asyncio.timeout(120):
            heard, _ = await both
        assert "missed" not in heard
        slow.cancel()


def test_the_log_and_the_history_tell_of_a_pull(
    daemon: Daemon, registry: DockerRegistry, busybox: Image
) -> None:
    reference = registry.push(busybox, "events/told:v1")
    before = len(daemon.log_lines())
    daemon.pull(reference)
    daemon.cli("pull", "-q", reference)
    assert daemon.cli("pull", reference + "x", check=False).returncode == 3
    lines = [line for line in daemon.log_lines()[before:] if line["event"] == "pull ended"]
    assert [line["hosts"] for line in lines] == [[registry.host], [registry.host], []]
    assert "image is here" in {line["event"] for line in daemon.log_lines()[before:]}
    told = daemon.cli("explain", reference).stdout
    assert "success in" in told
    assert "was here, unpacked" in told
    [count] = json.loads(daemon.cli("pulls", "--of", reference, "-o", "json").stdout)["counts"]
    assert (count["pulls"], count["fetched"]) == (2, 1)
    [shown] = json.loads(daemon.cli("images", "-o", "json").stdout)["images"]
    assert shown["pulls"] == [count]
    daemon.kill()
    daemon.start()
    reports = json.loads(daemon.cli("pulls", "--last", "-o", "json").stdout)["reports"]
    assert [each["outcome"] for each in reports[:3]] == ["failure", "success", "success"]
    assert reports[0]["reason"] == "not_found"


def test_the_command_streams(daemon: Daemon, registry: DockerRegistry, busybox: Image) -> None:
    reference = registry.push(busybox, "events/stream:v1")
    watching = subprocess.Popen(
        [str(daemon.program), "events", "-o", "json", "--address", str(daemon.socket)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert set(json.loads(watching.stdout.readline())) == {"time"}
        daemon.pull(reference)
        kinds = [next(iter({*json.loads(watching.stdout.readline())} - {"time"})) for _ in range(3)]
        assert kinds == ["pull_began", "image_created", "pull_ended"]
    finally:
        watching.terminate()
        watching.wait()
