"""What systemd is told, on a notify socket of the test's."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.systemd import bytes_moved, extend_start, feed_watchdog, notify, watchdog_seconds
from tests.support.daemon import Daemon


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Systemd's end of the notify socket."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(path))
        ours.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield ours


async def told(manager: socket.socket) -> str:
    async with asyncio.timeout(30):
        return (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()


async def test_a_message_arrives(manager: socket.socket) -> None:
    notify("READY=1")
    assert await told(manager) == "READY=1"


def test_an_abstract_socket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0cri-imaged-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@cri-imaged-test-{os.getpid()}")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_does_not_read_holds_nobody(manager: socket.socket) -> None:
    for _ in range(5000):
        notify("WATCHDOG=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("", "", None),
        ("0", "", None),
        ("30000000", "", 30.0),
        ("30000000", "own", 30.0),
        ("30000000", "1", None),
        ("soon", "", None),
    ],
)
def test_when_the_watchdog_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert watchdog_seconds() == seconds


async def test_the_loop_feeds_the_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    feeding = asyncio.create_task(feed_watchdog())
    assert [await told(manager) for _ in range(3)] == ["WATCHDOG=1"] * 3
    feeding.cancel()


async def test_no_watchdog_is_fed_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await feed_watchdog()


async def test_a_start_that_reads_gets_more_time_and_one_that_hangs_does_not(
    manager: socket.socket, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(4 << 20))
    extending = asyncio.create_task(extend_start(every=0.05))
    assert await told(manager) == "EXTEND_TIMEOUT_USEC=60000000"
    await asyncio.to_thread(blob.read_bytes)
    assert await told(manager) == "EXTEND_TIMEOUT_USEC=60000000"
    await asyncio.sleep(0.5)  # it looks, and finds no progress
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    extending.cancel()


async def test_what_children_read_is_progress_too(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(8 << 20))
    before = bytes_moved()
    child = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f"cat {blob} >/dev/null; echo read; read _",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    await child.stdout.readline()
    assert bytes_moved() - before >= 8 << 20
    await child.communicate(b"\n")


async def until_told(manager: socket.socket, message: str) -> list[str]:
    """What was told until `message`."""
    messages = [await told(manager)]
    while messages[-1] != message:
        messages.append(await told(manager))
    return messages


async def test_a_daemon_tells_of_its_life(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    daemon = Daemon(tmp_path / "d", snapshotter="native")
    await asyncio.to_thread(daemon.start)
    started = await until_told(manager, "READY=1")
    assert started[0] == "EXTEND_TIMEOUT_USEC=60000000"
    await until_told(manager, "WATCHDOG=1")
    await asyncio.to_thread(daemon.stop)
    await until_told(manager, "STOPPING=1")
