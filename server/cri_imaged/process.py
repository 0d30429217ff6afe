"""The daemon as a process: its lock, its limits, its background tasks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog

from cri_imaged.errors import ConfigError
from cri_imaged.private import private_directory

log = structlog.get_logger()


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Make `root` where it is missing, and keep others off: other users from what is in it, other
    processes by a lock that dies with this one.

    Raises:
        ConfigError: it cannot be made, closed to others, or opened, or another process holds it.
    """
    try:
        private_directory(root)
        # Not the directory itself: whoever may open that, maybe once more than it should have
        # been, could lock it.
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
    except OSError as error:
        raise ConfigError(
            f"root: cannot have {root} for this user alone: {error.strerror}"
        ) from None
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
    """Run tasks while the context lasts. One that ends by an error is a defect, and is logged when
    it does."""
    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background task failed", exc_info=error)
