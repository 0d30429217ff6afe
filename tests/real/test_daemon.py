"""The process itself: its socket, its lock, its signals, what generic gRPC tools ask."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from cri_imaged.rpc.node.v1 import node_pb2, node_pb2_grpc
from tests.real.conftest import Scratch
from tests.support.daemon import PROGRAM, Daemon
from tests.support.process import Process, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def fresh(scratch: Scratch) -> Iterator[Daemon]:
    with Daemon(scratch("daemon"), snapshotter="native") as running:
        yield running


def test_the_socket_is_for_owner_and_group(fresh: Daemon) -> None:
    assert stat.S_IMODE(fresh.socket.stat().st_mode) == 0o660


def test_sigterm_removes_the_socket(fresh: Daemon) -> None:
    fresh.stop()
    assert not fresh.socket.exists()


def test_a_stale_socket_is_replaced(fresh: Daemon) -> None:
    fresh.kill()
    assert fresh.socket.exists()
    fresh.start()
    assert fresh.images() == []


def test_a_log_that_nobody_reads_stops_nothing(fresh: Daemon) -> None:
    fresh.stop()
    read, write = os.pipe()
    child = subprocess.Popen(fresh.process.command, stdin=subprocess.DEVNULL, stderr=write)
    os.close(write)
    try:
        wait_until(lambda: answers(fresh), "the daemon answers")
        for _ in range(1500):  # each is logged; a pipe takes 64 KiB
            fresh.images()
        fill = fcntl.ioctl(read, termios.FIONREAD, bytes(4))
        assert int.from_bytes(fill, sys.byteorder) > 32 << 10, "the pipe is not full"
        child.terminate()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        os.close(read)


def test_closed_standard_streams_are_taken_by_nothing_else(fresh: Daemon) -> None:
    fresh.stop()
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *fresh.process.command]
    child = subprocess.Popen(command)
    try:
        wait_until(lambda: answers(fresh), "the daemon answers")
        for number in range(3):
            assert os.readlink(f"/proc/{child.pid}/fd/{number}") == "/dev/null"
        child.terminate()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()


def answers(daemon: Daemon) -> bool:
    try:
        return daemon.images() == []
    except grpc.RpcError:
        return False


def refusal(fresh: Daemon, *options: str) -> str:
    """What a second daemon says that must not start."""
    second = Process(
        [str(PROGRAM), "serve", "--config", str(fresh.config), "--metrics-address", "", *options],
        fresh.directory / "second.log",
    )
    second.start()
    wait_until(lambda: not second.running, "the second daemon gives up")
    assert second.stop() != 0
    return second.log()


def test_a_live_socket_is_refused(fresh: Daemon) -> None:
    said = refusal(fresh, "--root", str(fresh.directory / "other"))
    assert str(fresh.socket) in said
    assert "Traceback" not in said
    assert fresh.images() == []


def test_a_root_in_use_is_refused(fresh: Daemon) -> None:
    said = refusal(fresh, "--address", str(fresh.directory / "other.sock"))
    assert str(fresh.root) in said
    assert "Traceback" not in said
    assert fresh.images() == []


def test_an_unknown_key_is_an_error_that_names_it(fresh: Daemon) -> None:
    fresh.stop()
    fresh.config.write_text(fresh.config.read_text() + "\n[image.limits]\nmanifest_byts = 1\n")
    said = refusal(fresh)
    assert "manifest_byts" in said
    assert str(fresh.config) in said
    assert "Traceback" not in said


def test_health(fresh: Daemon) -> None:
    with fresh.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "runtime.v1.ImageService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(fresh: Daemon) -> None:
    with fresh.channel() as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"runtime.v1.ImageService", "runtime.v1.RuntimeService"} <= services
    assert "cri_imaged.node.v1.Node" in services


def test_ready_is_notified(scratch: Scratch) -> None:
    folder = scratch("notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify.sock"))
        manager.settimeout(60)
        os.environ["NOTIFY_SOCKET"] = str(folder / "notify.sock")
        try:
            daemon = Daemon(folder / "daemon", snapshotter="native")
        finally:
            del os.environ["NOTIFY_SOCKET"]
        daemon.process.start()
        try:
            while "READY=1" not in manager.recv(4096).decode().splitlines():
                pass  # it asks for more time before
            assert daemon.images() == []  # it answers as soon as it says so
        finally:
            daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_when_told(fresh: Daemon, number: signal.Signals) -> None:
    assert fresh.process.stop(number=number) == 0


def test_who_watches_pulls_is_told_that_there_are_no_more(fresh: Daemon) -> None:
    """And does not hold up the stop until it is cut off."""
    with fresh.channel() as channel:
        watched = node_pb2_grpc.NodeStub(channel).WatchPulls(node_pb2.WatchPullsRequest())
        assert not next(watched).pulls
        fresh.stop()
        assert list(watched) == []


def test_it_stops_cleanly_while_it_starts(scratch: Scratch) -> None:
    """Though it has much to look at: here blobs that its new database does not know."""
    daemon = Daemon(scratch("start"), snapshotter="native")
    blobs = daemon.root / "content" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for number in range(1000):
        with (blobs / f"{number:064x}").open("wb") as sparse:
            sparse.truncate(64 << 20)
    daemon.process.start()
    wait_until(lambda: len(os.listdir(blobs)) < 1000, "it looks at blobs", daemon.process)
    assert daemon.process.stop() == 0
    assert len(os.listdir(blobs)) > 100
    assert "Traceback" not in daemon.log()


def test_pulls_are_told_in_one_line(fresh: Daemon, busybox_reference: str) -> None:
    image_id = fresh.pull(busybox_reference)
    with pytest.raises(grpc.RpcError):
        fresh.pull(busybox_reference + "-unknown")
    fresh.stop()
    told = [line for line in map(str, fresh.log_lines()) if "pull ended" in line]
    assert len(told) == 2
    assert image_id in told[0]
    assert busybox_reference + "-unknown" in told[1]
