"""Give a layer, applied on its own, what it takes from the layers below it.

Both snapshotters seal alike; what hides the layers below differs and follows after it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cri_imaged.errors import CorruptContentError
from cri_imaged.limits import Limits
from cri_imaged.ports import Applied
from cri_imaged.snapshots.copying import BLOCK, copy_node
from cri_imaged.snapshots.directory import WRITE, Directory, set_owner
from cri_imaged.snapshots.paths import Subtrees, check_name, components, show, split
from cri_imaged.snapshots.resolving import Resolver
from cri_imaged.snapshots.stack import Found, Stack

DEFAULT_MODE = 0o755
"""Of a directory that no layer describes."""


class Seal:
    """One layer's directory while it is sealed on top of its parents.

    Directory times that sealing disturbs are put back by `finish`.
    """

    def __init__(
        self,
        own: Stack,
        lower: Stack,
        applied: Applied,
        limits: Limits,
        check: Callable[[], None],
    ) -> None:
        self.applied = applied
        self.lower = lower
        self.opaques = Subtrees(applied.opaques)
        self.bytes = 0
        self.inodes = 0
        self._own = own
        self.check = check
        self._resolver = Resolver(lower, limits.symlinks_followed)
        self._times: dict[bytes, tuple[int, int]] = {}

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        layer: Path,
        parents: Sequence[Path],
        applied: Applied,
        check: Callable[[], None],
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
            for path in applied.opaques:
                components(path)
            for path in (*applied.whiteouts, *itertools.chain(*applied.links)):
                check_name(path)
            seal = cls(own, lower, applied, limits, check)
            seal._describe_implicit()
            seal._copy_links()
            yield seal
            seal._put_back_times()

    def below(self, path: bytes) -> Found | None:
        """What the layers below show at `path`, as far as this layer's opaque directories let
        them."""
        return None if self.opaques.cover(path) else self.lower.find(path)

    def directory_below(self, path: bytes) -> Directory | None:
        """As `below`, where that is a directory. Good until the next look below."""
        return None if self.opaques.cover(path) else self.lower.directory(path)

    def own(self, path: bytes) -> Directory:
        """This layer's directory `path`. Good until the next call.

        Raises:
            CorruptContentError: there is none.
        """
        directory = self._own.directory(path)
        if directory is None:
            raise CorruptContentError(f"layer has no directory {show(path)}")
        return directory

    def change(self, path: bytes) -> Directory:
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
        self.inodes += 1
        self.bytes += BLOCK
        self._describe(path)

    def _remember(self, path: bytes, directory: Directory) -> None:
        if path not in self._times:
            info = os.fstat(directory.fd)
            self._times[path] = (info.st_atime_ns, info.st_mtime_ns)

    def _describe_implicit(self) -> None:
        for path in self.applied.implicit:
            self.check()
            self._describe(path)

    def _describe(self, path: bytes) -> None:
        """Let the directory that is visible below say what this layer does not."""
        own = self.own(path)
        shown = self.directory_below(path)
        if shown is not None:
            own.copy_metadata(shown)
            self._times.pop(path, None)
            self._remember(path, own)
        else:
            set_owner(own.fd, 0, 0)
            own.set_mode(DEFAULT_MODE)

    def _copy_links(self) -> None:
        made: set[bytes] = set()
        copies: dict[bytes, bytes] = {}
        for name, target in self.applied.links:
            self.check()
            source = target if target in made else copies.get(target)
            if source is None or not self._link(source, name):
                path = self._resolve(target)
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
            self.bytes += copy_node((found.directory, found.name), (self.change(parent).fd, last))
        except FileExistsError as error:
            raise _unusable(name, error) from error
        self.inodes += 1

    def _resolve(self, target: bytes) -> bytes | None:
        """`target`, the links of the layers below among its parents followed; None where they lead
        nowhere."""
        parent, name = split(target)
        above = self._resolver.resolve(parent)
        if above is None:
            return None
        return above + b"/" + name if above else name

    def _put_back_times(self) -> None:
        # Not by depth: setting a directory's times does not disturb its parent's.
        for path, times in self._times.items():
            self.check()
            os.utime(self.own(path).fd, ns=times)


def _unusable(name: bytes, error: OSError) -> CorruptContentError:
    return CorruptContentError(f"hardlink {show(name)}: {error.strerror}")
