"""Look into a stack of layers as their merged tree, without mounting it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cri_imaged.oci.layer_path import components
from cri_imaged.snapshots.merged import Merged
from cri_imaged.snapshots.opened import READ, OpenDirectory

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

    def link(self) -> bytes | None:
        """Its target, where it is a symbolic link."""
        if not stat.S_ISLNK(self.info.st_mode):
            return None
        return os.readlink(self.name, dir_fd=self.directory)


class Stack(Merged[OpenDirectory]):
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
        super().__init__(limit)
        self._layers = layers
        self._overlay = overlay
        self._need = need

    def __enter__(self) -> Stack:
        return self

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

    def _roots(self) -> list[OpenDirectory]:
        roots: list[OpenDirectory] = []
        try:
            for layer in self._layers:
                roots.append(OpenDirectory.open(layer, need=self._need))
        except BaseException:
            self._let_go(roots)
            raise
        return roots

    def _child(self, directory: OpenDirectory, name: bytes) -> OpenDirectory | None:
        try:
            return OpenDirectory.open(name, directory.fd, self._need)
        except NotADirectoryError:
            raise
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def _is_opaque(self, directory: OpenDirectory) -> bool:
        return self._overlay and directory.is_opaque()

    def _let_go(self, directories: Sequence[OpenDirectory]) -> None:
        for directory in directories:
            directory.close()


def is_whiteout(info: os.stat_result) -> bool:
    """Whether an overlay takes this for "nothing is here": character device 0/0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
