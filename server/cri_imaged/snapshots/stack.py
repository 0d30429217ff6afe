"""Look into a stack of layers as their merged tree, without mounting it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from cri_imaged.errors import LimitExceededError
from cri_imaged.snapshots.directory import READ, Directory
from cri_imaged.snapshots.paths import components

_HELD = 256
"""Descriptors that one stack keeps open between look-ups, beside those of its last directory."""
_ABSENT = (errno.ENOENT, errno.ENAMETOOLONG)


class Found(NamedTuple):
    """Something in the merged tree. `directory` is good until the next look-up."""

    directory: int
    name: bytes
    info: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory itself, not a link to one."""
        return stat.S_ISDIR(self.info.st_mode)


class _Level(NamedTuple):
    path: tuple[bytes, ...]
    directories: list[Directory]


class Stack:
    """Layers, topmost first, read by directory descriptors that never follow a link.

    `overlay` layers hide what is below them by whiteouts and opaque directories (kernel,
    Documentation/filesystems/overlayfs.rst); a single directory tree has neither.
    """

    def __init__(
        self,
        layers: Sequence[Path],
        *,
        overlay: bool,
        need: int = READ,
        limit: int | None = None,
    ) -> None:
        """At most `limit` directories are opened in all."""
        self._layers = layers
        self._left = limit
        self._overlay = overlay
        self._need = need
        self._levels: list[_Level] = []

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        while self._levels:
            _close(self._levels.pop().directories)

    def directory(self, path: bytes) -> Directory | None:
        """The topmost layer's part of the directory `path`; None where there is no directory.
        Good until the next look-up."""
        directories = self._enter(components(path))
        return directories[0] if directories else None

    def find(self, path: bytes) -> Found | None:
        """What is visible at `path`, not the root, which is reached through directories only."""
        *parents, name = components(path)
        for directory in self._enter(tuple(parents)):
            try:
                info = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            except OSError as error:
                if error.errno in _ABSENT:
                    continue
                raise
            if self._overlay and is_whiteout(info):
                return None
            return Found(directory.fd, name, info)
        return None

    def _enter(self, path: tuple[bytes, ...]) -> list[Directory]:
        """The directories that are merged at `path`, topmost first."""
        while self._levels and path[: len(self._levels[-1].path)] != self._levels[-1].path:
            _close(self._levels.pop().directories)
        if not self._levels:
            self._push((), self._roots())
        for depth in range(len(self._levels[-1].path), len(path)):
            self._push(path[: depth + 1], self._descend(path[depth]))
        return self._levels[-1].directories

    def _push(self, path: tuple[bytes, ...], directories: list[Directory]) -> None:
        self._levels.append(_Level(path, directories))
        if sum(len(level.directories) for level in self._levels) > _HELD:
            for level in self._levels[:-1]:
                _close(level.directories)
            del self._levels[:-1]

    def _roots(self) -> list[Directory]:
        roots: list[Directory] = []
        try:
            for layer in self._layers:
                roots.append(Directory.open(layer, need=self._need))
        except BaseException:
            _close(roots)
            raise
        return roots

    def _descend(self, name: bytes) -> list[Directory]:
        below: list[Directory] = []
        try:
            for directory in self._levels[-1].directories:
                self._spend()
                try:
                    below.append(Directory.open(name, directory.fd, self._need))
                except NotADirectoryError:
                    break  # a file, a link or a whiteout hides what is below
                except OSError as error:
                    if error.errno in _ABSENT:
                        continue
                    raise
                if self._overlay and below[-1].is_opaque():
                    break
        except BaseException:
            _close(below)
            raise
        return below

    def _spend(self) -> None:
        if self._left is None:
            return
        if not self._left:
            raise LimitExceededError(
                "the layer's directories are in too many of the layers below (seal_directories)"
            )
        self._left -= 1


def is_whiteout(info: os.stat_result) -> bool:
    """Whether an overlay takes this for "nothing is here": character device 0/0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _close(directories: Sequence[Directory]) -> None:
    for directory in directories:
        directory.close()
