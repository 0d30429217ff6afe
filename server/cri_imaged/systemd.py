"""What the daemon tells systemd (sd_notify(3)), where that started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

EXTENSION_SECONDS = 60
"""A start that has made progress may go on for this long."""
_EXTEND_EVERY = 15.0
_PROGRESS_BYTES = 1 << 20


def notify(state: str) -> None:
    """Send `state`; nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)  # the event loop does not wait for a full queue
        sock.sendto(state.encode(), address)


async def feed_watchdog() -> None:
    """Show from the event loop that it goes round, as often as the unit's `WatchdogSec` asks."""
    period = watchdog_seconds()
    while period is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 3)


def watchdog_seconds() -> float | None:
    """Within which systemd wants a sign of life (sd_watchdog_enabled(3)); None: it wants none."""
    wanted, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdecimal() or int(wanted) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(wanted) / 1e6


async def extend_start(every: float = _EXTEND_EVERY) -> None:
    """Ask for more time for as long as the start reads and writes. One that hangs is not helped:
    systemd ends it, and begins anew."""
    before = 0
    while os.environ.get("NOTIFY_SOCKET"):
        moved = await asyncio.to_thread(bytes_moved)
        if moved - before >= _PROGRESS_BYTES or not before:
            notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}")
            before = moved
        await asyncio.sleep(every)


def bytes_moved() -> int:
    """Bytes that this process and its children have read and written (proc_pid_io(5))."""
    total, processes = 0, [os.getpid()]
    while processes:
        directory = Path(f"/proc/{processes.pop()}")
        with contextlib.suppress(OSError):  # it ended
            fields = (directory / "io").read_text().split()
            total += int(fields[1]) + int(fields[3])
            for children in directory.glob("task/*/children"):
                processes += map(int, children.read_text().split())
    return total
