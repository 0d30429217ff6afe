"""Put a directory tree under another: native's way to stack layers, and a view's own copy."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import NamedTuple

from cri_imaged.ports import Usage
from cri_imaged.snapshots.copying import BLOCK, copy_node
from cri_imaged.snapshots.directory import WRITE, Directory
from cri_imaged.snapshots.paths import Subtrees, split

_ITERATED = 64
"""Depth down to which directories are listed while they are walked, not beforehand: an open
listing takes descriptors, a list takes memory."""
_NOT_LINKABLE = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Hidden:
    """What one layer does not let through of the tree below it."""

    def __init__(self, whiteouts: Collection[bytes] = (), opaques: tuple[bytes, ...] = ()) -> None:
        self._names: dict[bytes, set[bytes]] = {}
        for path in whiteouts:
            parent, name = split(path)
            self._names.setdefault(parent, set()).add(name)
        self._opaques = Subtrees(opaques)

    def all_of(self, directory: bytes) -> bool:
        """Whether `directory` is opaque."""
        return directory in self._opaques

    def names(self, directory: bytes) -> Collection[bytes]:
        """Names in `directory` that whiteouts hide."""
        return self._names.get(directory, ())


class _Frame(NamedTuple):
    path: bytes
    entries: Generator[tuple[str, bool], None, None]
    """Of the source: name, and whether it is a directory."""
    hidden: Collection[bytes]
    times: tuple[int, int] | None
    """Of a target that was there before; None where it was made here."""


def fill(
    target: Path,
    source: Path,
    hidden: Hidden,
    check: Callable[[], None],
    *,
    stage: Path | None = None,
) -> Usage:
    """Add to the tree `target` what `source` has and it has not.

    Files of `source` become further names of the same inodes; with `stage`, an empty directory
    beside `target`, they are copied, and hardlinks among them kept. Where a file cannot have
    another name (EMLINK, a file system without links), it is copied. `check` is called for each
    entry and may raise. Needs a handful of descriptors, however deep the trees are.

    Returns:
        What `target` grew by.
    """
    if hidden.all_of(b""):
        return Usage(0, 0)
    with (
        contextlib.nullcontext() if stage is None else Directory.open(stage, need=WRITE) as staged,
        contextlib.closing(_Filling(target, source, hidden, check, staged)) as filling,
    ):
        return filling.run()


class _Filling:
    def __init__(
        self,
        target: Path,
        source: Path,
        hidden: Hidden,
        check: Callable[[], None],
        stage: Directory | None,
    ) -> None:
        self._hidden = hidden
        self._check = check
        self._stage = stage
        self._bytes = 0
        self._inodes = 0
        self._frames: list[_Frame] = []
        self._own = Directory.open(target, need=WRITE)
        try:
            self._below = Directory.open(source)
        except BaseException:
            self._own.close()
            raise

    def close(self) -> None:
        for frame in self._frames:
            frame.entries.close()
        self._own.close()
        self._below.close()

    def run(self) -> Usage:
        self._push(b"", made=False)
        while self._frames:
            self._step(self._frames[-1])
        return Usage(self._bytes, self._inodes)

    def _step(self, frame: _Frame) -> None:
        """Go on in the current directory: until one to enter is found, or to its end."""
        for name, is_directory in frame.entries:
            self._check()
            if frame.hidden and os.fsencode(name) in frame.hidden:
                continue
            if not is_directory:
                self._place(name)
            elif self._enter(frame, name):
                return
        self._leave(frame)

    def _enter(self, frame: _Frame, name: str) -> bool:
        path = frame.path + b"/" + os.fsencode(name) if frame.path else os.fsencode(name)
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=self._own.fd)
            self._inodes += 1
            self._bytes += BLOCK
        except FileExistsError:
            made = False
            if self._hidden.all_of(path):
                return False
        try:
            self._move(name)
        except NotADirectoryError:
            return False
        self._push(path, made=made)
        return True

    def _push(self, path: bytes, *, made: bool) -> None:
        entries = _entries(self._below.fd)
        if len(self._frames) >= _ITERATED:
            entries = (entry for entry in list(entries))
        info = os.fstat(self._own.fd)
        times = None if made else (info.st_atime_ns, info.st_mtime_ns)
        self._frames.append(_Frame(path, entries, self._hidden.names(path), times))

    def _leave(self, frame: _Frame) -> None:
        if frame.times is None:
            self._own.copy_metadata(self._below)
        else:
            os.utime(self._own.fd, ns=frame.times)
        self._frames.pop()
        if self._frames:
            self._move("..")

    def _move(self, name: str) -> None:
        own = Directory.open(name, self._own.fd, WRITE)
        try:
            below = Directory.open(name, self._below.fd)
        except BaseException:
            own.close()
            raise
        self._own.close()
        self._below.close()
        self._own, self._below = own, below

    def _place(self, name: str) -> None:
        if self._stage is not None:
            self._place_copy(name, self._stage.fd)
        elif not _link(self._below.fd, name, self._own.fd, name):
            self._copy(name)

    def _place_copy(self, name: str, stage: int) -> None:
        info = os.stat(name, dir_fd=self._below.fd, follow_symlinks=False)
        if info.st_nlink == 1:
            self._copy(name)
            return
        staged = str(info.st_ino)
        try:
            if _link(stage, staged, self._own.fd, name):
                return
        except FileNotFoundError:
            pass
        self._copy(name)
        with contextlib.suppress(FileNotFoundError):
            _link(self._own.fd, name, stage, staged)

    def _copy(self, name: str) -> None:
        try:
            self._bytes += copy_node((self._below.fd, name), (self._own.fd, name))
            self._inodes += 1
        except FileExistsError:
            pass


def _link(source: int, name: str, target: int, new: str) -> bool:
    """Whether `new` in `target` now is `name` in `source`, or was there before; False where a
    further name is not possible."""
    try:
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in _NOT_LINKABLE:
            return False
        raise
    return True


def _entries(fd: int) -> Generator[tuple[str, bool], None, None]:
    """Names in a directory, and whether each is a directory. Holds its own descriptor."""
    own = os.dup(fd)
    try:
        with os.scandir(own) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir(follow_symlinks=False)
    finally:
        os.close(own)
