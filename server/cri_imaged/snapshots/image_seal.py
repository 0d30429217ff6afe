"""Give a layer that is an image what it takes from the layers below it: see `seal`, which does the
same for a directory. An overlay of the images then shows the image's tree.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cri_imaged.erofs.allowed import allowed, encoded
from cri_imaged.erofs.directories import value
from cri_imaged.erofs.editor import Editor
from cri_imaged.erofs.format import TYPES, Inode, Stat
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.erofs.verify import verify
from cri_imaged.errors import CorruptContentError
from cri_imaged.limits import Limits
from cri_imaged.oci.layer_path import check_name, components, show
from cri_imaged.ports import Applied, Late, Skipped
from cri_imaged.snapshots.image_copy import copy_file
from cri_imaged.snapshots.images import OPAQUE, Held, ImageStack
from cri_imaged.snapshots.paths import Subtrees, split
from cri_imaged.snapshots.resolving import LinkResolver

_WHITEOUT = Stat(stat.S_IFCHR, 0, 0, 0)
_DEFAULT = Stat(stat.S_IFDIR | 0o755, 0, 0, 0)
_IMPLICIT_BYTES = 32
"""That a directory which no entry lists takes of `Limits.seal_bytes`, at least."""


@dataclass(slots=True)
class _Link:
    """Names of one file that this layer did not hold under them."""

    source: Held
    own: bool
    """Whether it is this layer's, and not one below's, to be copied."""
    names: list[bytes] = field(default_factory=list)


def seal_image(
    path: Path,
    parents: Sequence[Path],
    applied: Applied,
    check: Callable[[], None],
    limits: Limits,
) -> Skipped:
    """Seal the image at `path` on top of the images `parents`, topmost first. What could not be
    done.

    Raises:
        CorruptContentError: a link's target is nowhere, what was applied is not there, or the image
            is not sound.
        LimitExceededError: a link's target leads through too many links, or the layer's
            directories are in too many of those below.
    """
    with ExitStack() as files:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        files.callback(os.close, fd)
        verify(fd, limits.layer_entries + limits.seal_bytes // _IMPLICIT_BYTES, check)
        lower = files.enter_context(ImageStack(parents, limits.seal_directories))
        for each in itertools.chain(applied.opaques, applied.implicit):
            components(each)
        for each in itertools.chain(
            applied.whiteouts, *applied.links, (late.path for late in applied.late)
        ):
            check_name(each)
        seal = _ImageSeal(fd, lower, applied, limits, check)
        try:
            return seal.run()
        except ValueError as error:
            raise CorruptContentError(f"image of a layer: {error}") from error


class _ImageSeal:
    def __init__(
        self,
        fd: int,
        lower: ImageStack,
        applied: Applied,
        limits: Limits,
        check: Callable[[], None],
    ) -> None:
        self._applied = applied
        self._lower = lower
        self._check = check
        self._image = Image.of(fd)
        self._editor = Editor(fd, self._image, os.fstat(fd).st_size)
        self._opaques = Subtrees(tuple(applied.opaques))
        self._resolver = LinkResolver(lower, limits.symlinks_followed)
        self._directories: dict[bytes, Found | None] = {}
        """Of this layer, those that were asked for; None for those that it gets."""
        self._entered: dict[tuple[int, bytes], Found] = {}
        """Directories of this layer that were looked up: each lies on the way to deeper ones."""
        self._xattrs: dict[bytes, dict[bytes, bytes]] = {}
        """Of directories that say something else now."""
        self._skipped = Skipped(devices=len(applied.devices))

    def run(self) -> Skipped:
        """Do all of it."""
        for path in self._applied.implicit:
            self._check()
            self._describe(path, self._own(path))
        self._link()
        for path in self._applied.opaques:
            self._check()
            self._hide_directory(path)
        for path in self._applied.whiteouts:
            self._check()
            self._hide_name(path)
        if self._editor.has_changes:
            self._editor.finish()
        return self._skipped + Skipped(xattrs=self._editor.writer.left_out)

    # --- what is there -----------------------------------------------------------------------

    def _find(self, path: bytes) -> Found | None:
        """What this layer has at `path`, as it was applied."""
        found: Found | None = self._image.inode()
        for part in components(path):
            if found is None or not found.is_directory:
                return None
            found = self._entry(found, part)
        return found

    def _entry(self, directory: Found, name: bytes) -> Found | None:
        """What is at `name` in a directory of this layer."""
        known = self._entered.get((directory.nid, name))
        if known is not None:
            return known
        dirent = self._image.lookup(directory, name)
        if dirent is None:
            return None
        found = self._image.inode(dirent.entry.nid)
        if found.is_directory:
            self._entered[directory.nid, name] = found
        return found

    def _own(self, path: bytes) -> Found | None:
        """This layer's directory `path`; None for one that it gets.

        Raises:
            CorruptContentError: there is none.
        """
        if path not in self._directories:
            parent, name = split(path)
            above = self._directories.get(parent) if path else None
            found = self._find(path) if above is None else self._entry(above, name)
            if found is None or not found.is_directory:
                raise CorruptContentError(f"layer has no directory {show(path)}")
            self._directories[path] = found
        return self._directories[path]

    def _change(self, path: bytes) -> Found | None:
        """As `_own`; it is made where it is missing."""
        above, own = b"", self._own(b"")
        for part in components(path):
            above = above + b"/" + part if above else part
            if above not in self._directories and (own is None or not self._entry(own, part)):
                self._directories[above] = None
                self._describe(above, None)
            own = self._own(above)
        return own

    def _below(self, path: bytes) -> Held | None:
        return None if self._opaques.cover(path) else self._lower.find(path)

    def _directory_below(self, path: bytes) -> Held | None:
        return None if self._opaques.cover(path) else self._lower.directory(path)

    # --- directories -------------------------------------------------------------------------

    def _describe(self, path: bytes, own: Found | None) -> None:
        """Let the directory that is visible below say what this layer does not."""
        shown = self._directory_below(path)
        if shown is not None:
            self._set(path, own, shown.stat, shown.xattrs())
        elif own is None:
            self._set(path, own, _DEFAULT, {})

    def _set(
        self, path: bytes, own: Found | None, status: Stat, xattrs: dict[bytes, bytes]
    ) -> None:
        self._xattrs[path] = xattrs
        if own is None or own.inode.stat != status or self._image.xattrs(own) != xattrs:
            self._editor.describe(path, own, status, encoded(xattrs, status.mode))

    def _hide_directory(self, path: bytes) -> None:
        own = self._own(path)
        if self._directory_below(path) is None:
            return
        if path in self._xattrs:
            xattrs = self._xattrs[path]
        else:
            xattrs = self._image.xattrs(own) if own is not None else {}
        status = self._editor.stat_of(path) or (own.inode.stat if own is not None else _DEFAULT)
        self._set(path, own, status, {**xattrs, OPAQUE: b"y"})

    def _hide_name(self, path: bytes) -> None:
        if self._below(path) is None:
            return
        parent, name = split(path)
        try:
            directory = self._change(parent)
        except CorruptContentError:
            return  # this layer has a file above it, which hides it already
        if self._editor.has(parent, directory, name):
            return
        nid = self._editor.writer.node(_WHITEOUT, {})
        self._editor.add(parent, directory, name, value(nid, TYPES[stat.S_IFCHR]))

    # --- links -------------------------------------------------------------------------------

    def _link(self) -> None:
        """Make the links to what this layer does not hold."""
        by_target: dict[bytes, _Link] = {}
        by_name: dict[bytes, _Link] = {}
        by_number: dict[int, _Link] = {}
        for name, target in self._applied.links:
            self._check()
            link = by_name.get(target) or by_target.get(target)
            if link is None:
                link = self._source(name, target, by_number)
                by_target[target] = link
            link.names.append(name)
            by_name[name] = link
        late: dict[int, list[Late]] = {}
        for each in self._applied.late:
            if each.path in by_name:
                late.setdefault(id(by_name[each.path]), []).append(each)
            else:  # all that can be there has its own already
                self._skipped += Skipped(xattrs=len(each.xattrs))
        for link in {id(link): link for link in by_name.values()}.values():
            self._check()
            self._make(link, late.get(id(link), []))

    def _source(self, name: bytes, target: bytes, by_number: dict[int, _Link]) -> _Link:
        path = self._resolver.target(target)
        # Behind a link of the layers below there may be a file of this one.
        own = None if path is None or path == target else self._find(path)
        if own is not None and not own.is_directory:
            return by_number.setdefault(own.nid, _Link(Held(self._image, own), own=True))
        found = None if path is None or own is not None else self._lower.find(path)
        if own is None and found is None:
            raise CorruptContentError(
                f"hardlink {show(name)}: neither this layer nor one below has its target "
                f"{show(target)}"
            )
        if found is None or found.found.is_directory:
            raise CorruptContentError(
                f"hardlink {show(name)}: its target {show(target)} is a directory"
            )
        return _Link(found, own=False)

    def _make(self, link: _Link, late: Sequence[Late]) -> None:
        status, xattrs = self._described(link.source, late)
        nid = self._restate(link, status, xattrs) if link.own else self._copy(link, status, xattrs)
        packed = value(nid, TYPES[stat.S_IFMT(status.mode)])
        for name in link.names:
            parent, last = split(name)
            if not self._editor.add(parent, self._change(parent), last, packed):
                raise CorruptContentError(f"hardlink {show(name)}: something is there already")

    def _described(
        self, source: Held, late: Sequence[Late]
    ) -> tuple[Stat, dict[bytes, bytes] | None]:
        """What a file says of itself once its names' entries were obeyed, and its extended
        attributes where they are others."""
        status, xattrs = source.stat, source.xattrs()
        before = dict(xattrs)
        for each in late:
            kept = allowed(dict(each.xattrs), status.mode)
            self._skipped += Skipped(xattrs=len(each.xattrs) - len(kept))
            said = each.attributes
            if said is not None:
                if (said.uid, said.gid) != (status.uid, status.gid) and stat.S_ISREG(status.mode):
                    xattrs.pop(b"security.capability", None)  # as chown(2) does
                link = stat.S_ISLNK(status.mode)
                mode = status.mode if link else stat.S_IFMT(status.mode) | said.mode
                mtime = said.seconds * 1_000_000_000 + said.nanoseconds
                status = Stat(mode, said.uid, said.gid, mtime)
            xattrs.update(kept)
        return status, None if xattrs == before and status.mode == source.stat.mode else xattrs

    def _restate(self, link: _Link, status: Stat, xattrs: dict[bytes, bytes] | None) -> int:
        """One of this layer's own: as far as its place has room."""
        found = link.source.found
        old = found.inode
        links = old.links + len(link.names)
        inode = Inode(status, old.size, links, old.layout, old.place)
        if not self._editor.restate(found, inode):
            self._skipped += Skipped(owners=1, times=1)
            inode.stat = old.stat
            if not self._editor.restate(found, inode):
                raise CorruptContentError("a file of more names than it can have")
        if xattrs is not None:
            self._skipped += Skipped(xattrs=len(xattrs))
        return found.nid

    def _copy(self, link: _Link, status: Stat, xattrs: dict[bytes, bytes] | None) -> int:
        """Copy a file of a layer below, data and all."""
        behind = encoded(link.source.xattrs() if xattrs is None else xattrs, status.mode)
        return copy_file(
            self._editor.writer, link.source, status, behind, len(link.names), self._check
        )
