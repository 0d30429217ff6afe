"""Put a directory tree under another: native's way to stack layers, and a view's own copy."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Generator
from pathlib import Path
from typing import NamedTuple

from cri_imaged.ports import DISK_BLOCK, Skipped, Usage
from cri_imaged.snapshots.copying import copy_node
from cri_imaged.snapshots.opened import WRITE, OpenDirectory
from cri_imaged.snapshots.paths import Subtrees, split
from cri_imaged.snapshots.tasks import Check, Growth

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


class Grown(NamedTuple):
    """What was added to a tree."""

    usage: Usage
    skipped: Skipped = Skipped()
    """Devices that may not be made here."""


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
    check: Check,
    *,
    stage: Path | None = None,
) -> Grown:
    """Add to the tree `target` what `source` has and it has not.

    Files of `source` become further names of the same inodes; with `stage`, an empty directory
    beside `target`, they are copied, and hardlinks among them kept. Where a file cannot have
    another name (EMLINK, a file system without links), it is copied. `check` is called for each
    entry and may raise. Needs a handful of descriptors, however deep the trees are.

    Returns:
        What `target` grew by.
    """
    if hidden.all_of(b""):
        return Grown(Usage(0, 0))
    with (
        contextlib.nullcontext()
        if stage is None
        else OpenDirectory.open(stage, need=WRITE) as staged,
        contextlib.closing(Filling(target, source, hidden, check, staged)) as filling,
    ):
        return filling.run()


class Filling:
    """See `fill`."""

    def __init__(
        self,
        target: Path,
        source: Path,
        hidden: Hidden,
        check: Check,
        stage: OpenDirectory | None = None,
    ) -> None:
        self._hidden = hidden
        self._stage = stage
        self._check = Growth(check)
        self._devices_skipped = 0
        self._frames: list[_Frame] = []
        self._own = OpenDirectory.open(target, need=WRITE)
        try:
            self._below = OpenDirectory.open(source)
        except BaseException:
            self._own.close()
            raise

    def close(self) -> None:
        """Release the descriptors."""
        for frame in self._frames:
            frame.entries.close()
        self._own.close()
        self._below.close()

    def run(self) -> Grown:
        """Add all; what the target grew by."""
        self._push(b"", made=False)
        while self._frames:
            self._step(self._frames[-1])
        return Grown(self._check.usage, Skipped(devices=self._devices_skipped))

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
        self._leave()

    def _enter(self, frame: _Frame, name: str) -> bool:
        path = frame.path + b"/" + os.fsencode(name) if frame.path else os.fsencode(name)
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=self._own.fd)
            self._check.grew(DISK_BLOCK, 1)
        except FileExistsError:
            made = False
            if self._hidden.all_of(path):
                return False
        try:
            self._move(name)
        except NotADirectoryError:
            return False
        if not made and self._skips():
            self._move("..")
            return False
        self._push(path, made=made)
        return True

    def _skips(self) -> bool:
        """Whether the target's directory, which was there before, takes nothing."""
        return False

    def _push(self, path: bytes, *, made: bool) -> None:
        entries = _entries(self._below.fd)
        if len(self._frames) >= _ITERATED:
            entries = (entry for entry in list(entries))
        info = os.fstat(self._own.fd)
        times = None if made else (info.st_atime_ns, info.st_mtime_ns)
        self._frames.append(_Frame(path, entries, self._hidden.names(path), times))

    def _leave(self) -> None:
        frame = self._frames.pop()
        if frame.times is None:
            self._own.copy_metadata(self._below)
        else:
            os.utime(self._own.fd, ns=frame.times)
        if self._frames:
            self._move("..")

    def _move(self, name: str) -> None:
        own = OpenDirectory.open(name, self._own.fd, WRITE)
        try:
            below = OpenDirectory.open(name, self._below.fd)
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
            if not copy_node((self._below.fd, name), (self._own.fd, name), self._check):
                self._devices_skipped += 1
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
