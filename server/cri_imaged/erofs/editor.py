"""Changes an image that was written: what directories say and hold.

What stays is not touched; what grows is written anew at the end. A directory that no longer fits
in its place is moved, and whoever names it told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cri_imaged.erofs.blocks import Blocks
from cri_imaged.erofs.directories import PARENT, nid_of, packed, type_of, value
from cri_imaged.erofs.format import (
    BLOCK,
    DIRECTORY,
    ROOT_NID,
    SLOT,
    Entry,
    Inode,
    Layout,
    Stat,
    decode_block,
    encode_block,
    encode_inode,
)
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.erofs.writer import ImageWriter, Xattrs


@dataclass(slots=True)
class _Change:
    """What becomes of one directory."""

    found: Found | None
    """None: it is new."""
    stat: Stat
    xattrs: Xattrs | None = None
    """None: as they are."""
    added: dict[bytes, int] = field(default_factory=dict)
    moved: dict[bytes, int] = field(default_factory=dict)
    """Names of its directories that have other numbers now."""


class Editor:
    """Gathers changes, by the paths of directories, and makes them at `finish`."""

    def __init__(self, fd: int, image: Image, end: int) -> None:
        """For the `image` in `fd`, open to read and write, `end` bytes long."""
        self._image = image
        self._changes: dict[bytes, _Change] = {}
        self._by_depth: dict[int, list[bytes]] = {}
        blocks = Blocks(fd, end + -end % BLOCK)
        self.writer = ImageWriter(blocks, image.count())

    @property
    def has_changes(self) -> bool:
        """Whether `finish` has something to do."""
        return bool(self._changes)

    def describe(self, path: bytes, found: Found | None, status: Stat, xattrs: Xattrs) -> None:
        """Let the directory `path`, which is `found` or is made, have these attributes."""
        change = self._changes.get(path)
        if change is None:
            self._begin(path, _Change(found, status, xattrs))
        else:
            change.stat, change.xattrs = status, xattrs

    def add(self, path: bytes, found: Found | None, name: bytes, packed_value: int) -> bool:
        """Put `name` in the directory `path`. False where it is there already."""
        if self.has(path, found, name):
            return False
        change = self._changes.get(path)
        if change is None:
            assert found is not None
            change = self._begin(path, _Change(found, found.inode.stat))
        change.added[name] = packed_value
        return True

    def has(self, path: bytes, found: Found | None, name: bytes) -> bool:
        """Whether the directory `path`, which is `found` or is made, has or gets that name."""
        change = self._changes.get(path)
        if change is not None and name in change.added:
            return True
        return found is not None and self._image.lookup(found, name) is not None

    def stat_of(self, path: bytes) -> Stat | None:
        """What a directory that is changed says of itself then."""
        change = self._changes.get(path)
        return change.stat if change is not None else None

    def restate(self, found: Found, inode: Inode) -> bool:
        """Let an inode, of the same data, say something else. False where that does not fit in its
        place."""
        if inode.header_size != found.inode.header_size:
            return False
        self.writer.blocks.put(found.address, encode_inode(inode, found.xattr_size))
        return True

    def finish(self) -> None:
        """Make all changes, and the superblock anew."""
        numbers: dict[bytes, int] = {}
        parents: dict[bytes, int] = {}
        for depth in range(max(self._by_depth, default=-1), -1, -1):
            for path in sorted(self._by_depth.get(depth, ())):
                numbers[path], parents[path] = self._make(path, self._changes[path])
        for path, address in parents.items():
            above = numbers.get(path.rpartition(b"/")[0]) if path else ROOT_NID
            if above is not None:
                self.writer.blocks.put(address, PARENT.pack(above))
        self.writer.finish()

    def _make(self, path: bytes, change: _Change) -> tuple[int, int]:
        """Write one directory, those in it being written. Its number, and where it says its
        parent's."""
        name = path.rpartition(b"/")[2]
        if change.found is None:
            made = self.writer.directory(change.stat, change.xattrs or {}, change.added)
            self._parent_of(path).added[name] = value(made.nid, DIRECTORY)
            return made.nid, made.parent_at
        nid = self._rewrite(change.found, change)
        if nid != change.found.nid:
            self._parent_of(path).moved[name] = nid
            self._tell_children(change, nid)
        dirent = self._image.lookup(self._image.inode(nid), b"..")
        assert dirent is not None
        return nid, dirent.address

    def _parent_of(self, path: bytes) -> _Change:
        above = path.rpartition(b"/")[0]
        if above not in self._changes:
            found = self._image.inode()
            for part in above.split(b"/") if above else ():
                dirent = self._image.lookup(found, part)
                assert dirent is not None
                found = self._image.inode(dirent.entry.nid)
            self._begin(above, _Change(found, found.inode.stat))
        return self._changes[above]

    def _begin(self, path: bytes, change: _Change) -> _Change:
        self._changes[path] = change
        self._by_depth.setdefault(_depth(path), []).append(path)
        return change

    def _tell_children(self, change: _Change, nid: int) -> None:
        """Those that are changed are told at the end."""
        assert change.found is not None
        for dirent in self._image.entries(change.found):
            entry = dirent.entry
            if entry.type == DIRECTORY and entry.name not in (b".", b".."):
                child = change.moved.get(entry.name, entry.nid)
                told = self._image.lookup(self._image.inode(child), b"..")
                if told is not None:
                    self.writer.blocks.put(told.address, PARENT.pack(nid))

    def _rewrite(self, found: Found, change: _Change) -> int:
        """Write a directory that is there. Its number: another one where it had to move."""
        blocks = self.writer.blocks
        is_root = found.nid == ROOT_NID
        links = sum(type_of(each) == DIRECTORY for each in change.added.values())
        inode = Inode(
            change.stat,
            found.inode.size,
            found.inode.links + links,
            found.inode.layout,
            found.inode.place,
        )
        body = self._image.body(found)
        if change.xattrs is not None:
            room = BLOCK - (found.address % BLOCK if is_root else 0) - inode.header_size
            body = self.writer.body_of(change.xattrs, room)
        grown = found.inode.header_size + found.xattr_size != inode.header_size + len(body)
        nid = found.nid
        if grown and not is_root:
            nid = blocks.allocate(inode.header_size + len(body)) // SLOT
        if grown or change.added:
            moved = {**change.moved, b".": nid}
            self._write_data(found, inode, change.added, moved)
        else:
            for name, number in change.moved.items():
                dirent = self._image.lookup(found, name)
                assert dirent is not None
                blocks.put(dirent.address, PARENT.pack(number))
        blocks.put(nid * SLOT, encode_inode(inode, len(body)) + body)
        blocks.flush()
        return nid

    def _write_data(
        self, found: Found, inode: Inode, added: Mapping[bytes, int], moved: Mapping[bytes, int]
    ) -> None:
        blocks = self.writer.blocks
        inode.layout, inode.place, inode.size = Layout.PLAIN, blocks.end // BLOCK, 0
        old = (
            self._image.directory_block(found, number)
            for number in range(-(-found.inode.size // BLOCK))
        )
        for data in _merged(old, added, moved):
            inode.size += -inode.size % BLOCK
            inode.size += len(data)
            blocks.append(data)
            blocks.fill_block()


def _merged(
    blocks: Iterable[bytes], added: Mapping[bytes, int], moved: Mapping[bytes, int]
) -> Iterator[bytes]:
    """A directory's blocks with what was added and has moved; most are as they were."""
    waiting = sorted(added, reverse=True)
    changed = sorted(moved, reverse=True)
    held: bytes | None = None
    for block in blocks:
        if held is not None:
            before = next(decode_block(block)).name
            yield from _with(held, _up_to(waiting, before), added, _up_to(changed, before), moved)
        held = block
    assert held is not None
    yield from _with(held, _up_to(waiting, None), added, _up_to(changed, None), moved)


def _up_to(names: list[bytes], end: bytes | None) -> list[bytes]:
    taken = []
    while names and (end is None or names[-1] < end):
        taken.append(names.pop())
    return taken


def _with(
    block: bytes,
    new: list[bytes],
    added: Mapping[bytes, int],
    changed: list[bytes],
    moved: Mapping[bytes, int],
) -> Iterator[bytes]:
    if not new and not changed:
        yield block
        return
    entries = {entry.name: entry for entry in decode_block(block)}
    for name in new:
        entries[name] = Entry(name, nid_of(added[name]), type_of(added[name]))
    for name in changed:
        entries[name] = entries[name]._replace(nid=moved[name])
    for names in packed(sorted(entries)):
        found = [entries[name] for name in names]
        yield encode_block(names, [each.nid for each in found], [each.type for each in found])


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0
