"""The daemon as a process: its lock, its background tasks, and what it tells systemd."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog

from cri_imaged.errors import ConfigError

log = structlog.get_logger()


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Make `root` where it is missing, and keep others off. The lock dies with the process.

    Raises:
        ConfigError: it cannot be made or opened, or another process holds it.
    """
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"root: cannot make or open {root}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"root: another daemon uses {root}; stop it or choose another root"
            ) from None
        yield
    finally:
        os.close(fd)


def raise_descriptor_limit() -> None:
    """Allow this process as many open files as its hard limit does: a seal of many layers holds a
    directory of each, and the usual soft limit is there for select(2), which nothing here uses."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def background(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run tasks while the context lasts. One that ends by an error is a defect and is logged."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("background task failed", exc_info=result)


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), where it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.sendto(state.encode(), address)
