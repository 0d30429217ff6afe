"""What entries of an archive mean, whatever kind of tree they are put in."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Generic

from cri_imaged.errors import CorruptContentError, ImagedError
from cri_imaged.layers.sinks.attributes import Metadata
from cri_imaged.layers.sinks.ledger import Ledger
from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.layers.sinks.walking import D, Walker
from cri_imaged.layers.tar import paths
from cri_imaged.layers.tar.entry import Entry, Kind, shown
from cri_imaged.layers.tar.paths import Special
from cri_imaged.ports import Attributes, Late, Skipped, Usage

_NO_NAMES = frozenset({b"", b".", b".."})
_SECOND = 1_000_000_000


class EntrySink(ABC, Generic[D]):
    """A `LayerSink` that puts entries of one layer, alone, where they belong in a tree."""

    def __init__(self, tree: Walker[D], ledger: Ledger, metadata: Metadata) -> None:
        self._walker = tree
        self._ledger = ledger
        self._metadata = metadata
        self._unmade: set[bytes] = set()
        """Paths of devices that were skipped: links to them are, too."""
        self._aside = b""
        """Name of the directory for what `paths.LINKS` holds. No stranger can know it."""

    def add(self, entry: Entry, data: memoryview) -> None:
        """See `LayerSink.add`. Whatever this layer had there gives way."""
        try:
            self._add(entry, data)
        except ImagedError as error:
            raise error.within(
                f"layer: entry {shown(entry.name)} at offset {entry.offset}"
            ) from None

    def held(self) -> Usage:
        """See `LayerSink.held`."""
        return self._walker.usage()

    def skipped(self) -> Skipped:
        """See `LayerSink.skipped`."""
        counts = self._metadata.skipped
        return Skipped(counts.owners, counts.devices, counts.xattrs, counts.times)

    def finish(self) -> Sealable:
        """Settle what the layers below decide, and give directories their last attributes."""
        if self._aside:
            self._walker.remove(self._walker.root, self._aside)
        for directory in self._ledger.missing(self._walker.reach):
            self._walker.parent(directory)
        sealable, left_out = self._ledger.settle(self._walker.reach)
        self._metadata.skipped.xattrs += left_out
        self._walker.close()
        return sealable

    @abstractmethod
    def _file(self, entry: Entry, data: memoryview, parent: D, base: bytes) -> None:
        """Begin a file in the place of whatever is at `base`."""

    @abstractmethod
    def _directory(self, entry: Entry, parent: D, base: bytes) -> None:
        """Make a directory, or give the one that is there other attributes."""

    @abstractmethod
    def _root_time(self, mtime: int) -> None:
        """The root is listed."""

    @abstractmethod
    def _link(self, entry: Entry, source: D, name: bytes, parent: D, base: bytes) -> bool:
        """Make `base` another name of `name` in `source`, which is then as `entry` says. False
        where the layer has nothing there. Raises `CorruptContentError` for a directory."""

    @abstractmethod
    def _replaced(self, parent: D, base: bytes) -> D:
        """Remove what is at `base`; the parent, valid again."""

    @abstractmethod
    def _node(self, entry: Entry, parent: D, base: bytes) -> None:
        """Make what is no file, directory or hardlink."""

    def _add(self, entry: Entry, data: memoryview) -> None:
        raw_parent, _, base = entry.name.rpartition(b"/")
        if base in _NO_NAMES:
            components = paths.parts(entry.name)
            if not components:
                self._root(entry)
                return
            base = components.pop()
            raw_parent = b"/".join(components)
        if paths.PREFIX in entry.name:
            if special := paths.special_parent(paths.parts(raw_parent)):
                self._in_special(special, entry, data, raw_parent, base)
                return
            if base.startswith(paths.PREFIX):
                self._special(raw_parent, base)
                return
        parent = self._walker.parent(raw_parent)
        if entry.kind is Kind.FILE:
            self._file(entry, data, parent, base)
        elif entry.kind is Kind.DIRECTORY:
            self._directory(entry, parent, base)
        elif entry.kind is Kind.HARDLINK:
            self._hardlink(entry, parent, base)
        else:
            self._node(entry, parent, base)

    def _root(self, entry: Entry) -> None:
        """The root is root's and 0755 whatever an archive says, as in containerd: an image's users
        must get in."""
        if entry.kind is not Kind.DIRECTORY:
            raise CorruptContentError(f"the root directory is listed as a {entry.kind.value}")
        self._ledger.listed(b"")
        self._root_time(entry.mtime)

    def _hardlink(self, entry: Entry, parent: D, base: bytes) -> None:
        source, source_base, path = self._target(entry.link)
        name = paths.join(parent.path, base)
        if path == name:
            raise CorruptContentError("hardlink to itself")
        if path.startswith(name + b"/"):
            raise CorruptContentError("hardlink in the place of a directory above its target")
        if source is not None and self._link(entry, source, source_base, parent, base):
            return
        parent = self._replaced(parent, base)
        if path in self._unmade:
            self._skip_device(name)
            return
        directory, _, last = path.rpartition(b"/")
        seconds, nanoseconds = divmod(entry.mtime, _SECOND)
        late = Late(
            name,
            self._metadata.allowed(entry.xattrs),
            Attributes(entry.uid, entry.gid, entry.mode, seconds, nanoseconds),
        )
        self._ledger.link(parent.path, base, self._ledger.linked(directory, last) or path, late)

    def _target(self, raw: bytes) -> tuple[D | None, bytes, bytes]:
        """As `Walker.target`, for what was put aside too."""
        components = paths.parts(raw)
        if self._aside and components[:-1] == [paths.LINKS]:
            aside = self._put_aside()
            return aside, components[1], paths.join(aside.path, components[1])
        return self._walker.target(raw)

    def _put_aside(self) -> D:
        self._aside = self._aside or paths.LINKS + b"." + os.urandom(16).hex().encode()
        return self._walker.make_directory(self._walker.root, self._aside)

    def _skip_device(self, path: bytes) -> None:
        self._unmade.add(path)
        self._metadata.skipped.devices += 1

    def _special(self, raw_parent: bytes, base: bytes) -> None:
        match paths.special(base):
            case Special.WHITEOUT:
                hidden = base[len(paths.PREFIX) :]
                self._ledger.whiteout(paths.join(self._walker.path_of(raw_parent), hidden))
            case Special.OPAQUE:
                self._ledger.opaque(self._walker.path_of(raw_parent))
            case Special.IGNORED:
                pass
            case Special.INVALID:
                raise CorruptContentError("a whiteout of nothing")

    def _in_special(
        self, special: Special, entry: Entry, data: memoryview, raw_parent: bytes, base: bytes
    ) -> None:
        """An entry in a directory of AUFS's own records: only the data of hardlinks counts."""
        if special is Special.INVALID:
            raise CorruptContentError("an entry inside a whiteout")
        if entry.kind is Kind.FILE and paths.parts(raw_parent) == [paths.LINKS]:
            self._file(entry, data, self._put_aside(), base)
