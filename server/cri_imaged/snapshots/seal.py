"""Give a layer, applied on its own, what it takes from the layers below it.

Both snapshotters seal alike; what hides the layers below differs and follows after it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cri_imaged.errors import CorruptContentError
from cri_imaged.limits import Limits
from cri_imaged.oci.layer_path import check_name, components, show
from cri_imaged.ports import DISK_BLOCK, Applied, Skipped, Usage
from cri_imaged.snapshots.copying import copy_node
from cri_imaged.snapshots.devices import make_device
from cri_imaged.snapshots.opened import WRITE, OpenDirectory, set_owner
from cri_imaged.snapshots.paths import Subtrees, split
from cri_imaged.snapshots.resolving import LinkResolver
from cri_imaged.snapshots.stack import Stack
from cri_imaged.snapshots.tasks import Check, Growth

DEFAULT_MODE = 0o755
"""Of a directory that no layer describes."""
_MANY_PATHS = 2000
"""From which on a seal is large: it may hold them in memory."""


def is_large(applied: Applied) -> bool:
    """Whether the seal of a layer takes much memory."""
    paths = (applied.whiteouts, applied.opaques, applied.links, applied.devices)
    return sum(map(len, paths)) > _MANY_PATHS


class _Disturbed(NamedTuple):
    """A directory that is being changed, and the times that it is to have."""

    path: bytes
    fd: int
    times: tuple[int, int]


class Seal:
    """One layer's directory while it is sealed on top of its parents.

    The times of directories that the seal disturbs are put back, at the latest when `open` is left.
    """

    def __init__(
        self,
        own: Stack,
        lower: Stack,
        applied: Applied,
        limits: Limits,
        check: Check,
    ) -> None:
        self.applied = applied
        self.lower = lower
        self.opaques = Subtrees(tuple(applied.opaques))
        self._devices_skipped = 0
        self._own = own
        self._check = Growth(check)
        self._resolver = LinkResolver(lower, limits.symlinks_followed)
        self._disturbed: _Disturbed | None = None

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        layer: Path,
        parents: Sequence[Path],
        applied: Applied,
        check: Check,
        *,
        overlay: bool,
        limits: Limits,
    ) -> Iterator[Seal]:
        """Seal `layer` on top of `parents` (topmost first): implicit directories and links are
        done on entry, directory times on leaving.

        Raises:
            CorruptContentError: a link's target is nowhere, or what was applied is not there.
            LimitExceededError: a link's target leads through too many links, or the layer's
                directories are in too many of those below.
        """
        with (
            Stack([layer], overlay=False, need=WRITE) as own,
            Stack(parents, overlay=overlay, limit=limits.seal_directories) as lower,
        ):
            seal = cls(own, lower, applied, limits, check)
            try:
                seal._check_paths()
                seal._describe_implicit()
                seal._copy_links()
                yield seal
            finally:
                seal._put_back_times()

    def check(self) -> None:
        """To be called often, where nothing that was found is used further."""
        self._check(self._let_go)

    def grew(self, size: int = 0) -> None:
        """Tell of an inode that was made, and of the bytes that it takes."""
        self._check.grew(size, 1)

    @property
    def usage(self) -> Usage:
        """What the layer has by now."""
        return self.applied.usage + self._check.usage

    @property
    def skipped(self) -> Skipped:
        """What could not be put on disk, when the layer was applied or now."""
        return self.applied.skipped + Skipped(devices=self._devices_skipped)

    def _let_go(self) -> None:
        self._put_back_times()
        self._own.close()
        self.lower.close()

    def _check_paths(self) -> None:
        for path in self.applied.opaques:
            self.check()
            components(path)
        for path in itertools.chain(
            self.applied.whiteouts,
            itertools.chain.from_iterable(self.applied.links),
            itertools.chain.from_iterable(device.names for device in self.applied.devices),
        ):
            self.check()
            check_name(path)

    def directory_below(self, path: bytes) -> OpenDirectory | None:
        """The directory that the layers below show at `path`, as far as this layer's opaque
        directories let them. Good until the next look below."""
        return None if self.opaques.cover(path) else self.lower.directory(path)

    def own(self, path: bytes) -> OpenDirectory:
        """This layer's directory `path`. Good until the next call.

        Raises:
            CorruptContentError: there is none.
        """
        directory = self._own.directory(path)
        if directory is None:
            raise CorruptContentError(f"layer has no directory {show(path)}")
        return directory

    def change(self, path: bytes) -> OpenDirectory:
        """This layer's directory `path`, made if it is missing, about to be changed. Good until
        the next call.

        Raises:
            CorruptContentError: this layer has something else at `path` or above it.
        """
        directory = self._own.directory(path)
        if directory is None:
            parts = components(path)
            for depth in range(1, len(parts) + 1):
                self._make(b"/".join(parts[:depth]))
            directory = self.own(path)
        self._remember(path, directory)
        return directory

    def _make(self, path: bytes) -> None:
        if self._own.directory(path) is not None:
            return
        parent, name = split(path)
        above = self.own(parent)
        self._remember(parent, above)
        try:
            os.mkdir(name, DEFAULT_MODE, dir_fd=above.fd)
        except FileExistsError as error:
            raise CorruptContentError(f"layer has no directory at {show(path)}") from error
        self.grew(DISK_BLOCK)
        self._describe(path)

    def _remember(self, path: bytes, directory: OpenDirectory) -> None:
        if self._disturbed is None or self._disturbed.path != path:
            self._put_back_times()
            info = os.fstat(directory.fd)
            times = (info.st_atime_ns, info.st_mtime_ns)
            self._disturbed = _Disturbed(path, os.dup(directory.fd), times)

    def _describe_implicit(self) -> None:
        for path in self.applied.implicit:
            self.check()
            self._describe(path)

    def _describe(self, path: bytes) -> None:
        """Let the directory that is visible below say what this layer does not."""
        own = self.own(path)
        shown = self.directory_below(path)
        if shown is not None:
            self._put_back_times()
            own.copy_metadata(shown)
        else:
            set_owner(own.fd, 0, 0)
            own.set_mode(DEFAULT_MODE)

    def _make_devices(self) -> set[bytes]:
        """Make the layer's device nodes and the links to them. Returns their names."""
        made: set[bytes] = set()
        for device in self.applied.devices:
            self.check()
            first, *others = device.names
            parent, name = split(first)
            try:
                if not make_device(self.change(parent).fd, name, device):
                    self._devices_skipped += len(device.names)
                    continue
            except FileExistsError as error:
                raise CorruptContentError(f"device {show(first)}: {error.strerror}") from error
            self.grew()
            for other in others:
                self._link(first, other)
            made.update(device.names)
        return made

    def _copy_links(self) -> None:
        made = self._make_devices()
        copies: dict[bytes, bytes] = {}
        for name, target in self.applied.links:
            self.check()
            source = target if target in made else copies.get(target)
            if source is None or not self._link(source, name):
                path = self._resolver.target(target)
                # Behind a link of the layers below there may be a file of this one.
                if path is None or path == target or not self._link(path, name):
                    self._copy_up(target, path, name)
                    copies[target] = name
            made.add(name)

    def _link(self, source: bytes, name: bytes) -> bool:
        """Whether `name` could be made another name of `source`, both of this layer."""
        found = self._own.find(source)
        if found is None:
            return False
        parent, last = split(name)
        handle = os.open(found.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=found.directory)
        try:
            directory = self.change(parent).fd
            os.link(f"/proc/self/fd/{handle}", last, dst_dir_fd=directory, follow_symlinks=True)
        except OSError as error:
            if error.errno == errno.EMLINK:
                return False
            raise _unusable(name, error) from error
        finally:
            os.close(handle)
        return True

    def _copy_up(self, target: bytes, path: bytes | None, name: bytes) -> None:
        found = None if path is None else self.lower.find(path)
        if found is None:
            raise CorruptContentError(
                f"hardlink {show(name)}: neither this layer nor one below has its target "
                f"{show(target)}"
            )
        if found.is_directory:
            raise CorruptContentError(
                f"hardlink {show(name)}: its target {show(target)} is a directory"
            )
        parent, last = split(name)
        try:
            made = copy_node(
                (found.directory, found.name), (self.change(parent).fd, last), self._check
            )
        except FileExistsError as error:
            raise _unusable(name, error) from error
        self._devices_skipped += not made

    def _put_back_times(self) -> None:
        disturbed, self._disturbed = self._disturbed, None
        if disturbed is not None:
            try:
                os.utime(disturbed.fd, ns=disturbed.times)
            finally:
                os.close(disturbed.fd)


def _unusable(name: bytes, error: OSError) -> CorruptContentError:
    return CorruptContentError(f"hardlink {show(name)}: {error.strerror}")
