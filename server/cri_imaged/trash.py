"""Space comes back in the background: what is renamed into the trash is removed by a thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import queue
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from cri_imaged.private import private_directory

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 0.5
"""After which something is removed for which too many files were open."""


class Trash:
    """A directory beside what it takes in, on the same file system, and the thread that empties
    it. What a crash left in it is removed by the next one."""

    def __init__(self, directory: Path) -> None:
        private_directory(directory)
        self._directory = directory
        self._numbers = itertools.count()
        self._prefix = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._pending: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._idle = threading.Condition()
        self._unfinished = 0
        self._stop = threading.Event()
        for leftover in sorted(directory.iterdir()):
            self._remove_later(leftover)
        self._thread = threading.Thread(target=self._work, name="trash", daemon=True)
        self._thread.start()

    def put(self, path: Path) -> None:
        """Rename `path` into the trash, to be removed soon. What is not there is done with."""
        target = self._directory / f"{self._prefix}-{next(self._numbers)}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return
        self._remove_later(target)

    @property
    def waiting(self) -> int:
        """How much of what was put, or left over, is still to be removed."""
        return self._unfinished

    async def drain(self) -> None:
        """Wait until what was put so far, and what was left over, has been removed as far as it
        can be."""
        await asyncio.to_thread(self._wait)

    def close(self) -> None:
        """Stop removing. What is left is removed at the next start."""
        self._stop.set()
        self._pending.put(None)
        self._thread.join()
        with self._idle:
            self._unfinished = 0
            self._idle.notify_all()

    def _wait(self) -> None:
        with self._idle:
            self._idle.wait_for(lambda: self._unfinished == 0)

    def _remove_later(self, path: Path) -> None:
        with self._idle:
            self._unfinished += 1
        self._pending.put(path)

    def _work(self) -> None:
        while (path := self._pending.get()) is not None and not self._stop.is_set():
            try:
                remove_tree(path, self._stop)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._pending.put(path)
                    self._stop.wait(_AGAIN_SECONDS)
                    continue
                log.warning("trash could not be removed", path=str(path), error=str(error))
            with self._idle:
                self._unfinished -= 1
                self._idle.notify_all()


def remove_tree(path: Path, stop: threading.Event | None = None) -> None:
    """Remove a file or a tree of any depth, though modes forbid it, as far as it can be done.

    Follows no link and needs a handful of descriptors, however deep the tree is. Ends early where
    `stop` is set. What is not there is done with.

    Raises:
        OSError: the first failure, after all else was removed.
    """
    try:
        removal = _Removal(path, stop or threading.Event())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    try:
        removal.run()
    finally:
        removal.close()
    if removal.failure is not None:
        raise removal.failure
    if not removal.stopped:
        os.rmdir(path)


class _Removal:
    """Empties one directory after the other; goes up again by `..`."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        self.failure: OSError | None = None
        self._stop = stop
        self._fd = _open(path, None)

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        os.close(self._fd)

    def run(self) -> None:
        names: list[str] = []
        pending = [self._empty()]
        while not self.stopped:
            if pending[-1]:
                name = pending[-1].pop()
                if self._attempt(self._move, name):
                    names.append(name)
                    pending.append(self._empty())
            elif names:
                pending.pop()
                self._move("..")
                self._attempt(self._remove_directory, names.pop())
            else:
                return

    def _empty(self) -> list[str]:
        """Remove what can be removed at once here; the names of directories that are not empty."""
        directories: list[str] = []
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if self.stopped:
                    break
                if not entry.is_dir(follow_symlinks=False):
                    self._attempt(self._unlink, entry.name)
                elif not self._removed_empty(entry.name):
                    directories.append(entry.name)
        return directories

    def _removed_empty(self, name: str) -> bool:
        try:
            self._remove_directory(name)
        except OSError:
            return False
        return True

    def _attempt(self, action: Callable[[str], None], name: str) -> bool:
        try:
            action(name)
        except OSError as error:
            self.failure = self.failure or error
            return False
        return True

    def _unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._fd)

    def _remove_directory(self, name: str) -> None:
        os.rmdir(name, dir_fd=self._fd)

    def _move(self, name: str) -> None:
        below = _open(name, self._fd)
        os.close(self._fd)
        self._fd = below


def _open(name: str | Path, parent: int | None) -> int:
    """Open a directory to be emptied; where its mode forbids that, the mode is changed."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=parent)
    try:
        link = f"/proc/self/fd/{handle}"
        if stat.S_IMODE(os.fstat(handle).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):
                os.chmod(link, stat.S_IRWXU)
        return os.open(link, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
