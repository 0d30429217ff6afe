"""Whether the kernel may be shown an image.

Whoever wrote it had read a stranger's bytes, and may have obeyed them. All that the kernel follows,
numbers, addresses, sizes and layouts, has to be what `writer` makes; of data in other layouts it
would run decompressors. Structures are in places of their own, as the seal changes some of them.
What files hold and say of themselves is the layer's affair. An image
passes before its seal, which is the daemon's own.
"""

from __future__ import annotations

import array
import operator
import os
import stat
from collections.abc import Callable

from cri_imaged.erofs.allowed import OVERLAYS
from cri_imaged.erofs.chunks import stored
from cri_imaged.erofs.claims import Claims
from cri_imaged.erofs.directories import NAME_BYTES
from cri_imaged.erofs.format import (
    BLOCK,
    DIRECTORY,
    EXTENDED_SIZE,
    ROOT_NID,
    SLOT,
    SUPER,
    SUPER_SIZE,
    TYPES,
    Layout,
    damaged,
    encode_superblock,
    split_block,
    unpack_inode,
)
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.erofs.writer import MOST_BLOCKS, MOST_SHARED
from cri_imaged.erofs.xattrs import (
    LIST_HEADER,
    decode_one,
    encode_xattr,
    inline_ones,
    shared_ones,
)

_FILE, _LINK = TYPES[stat.S_IFREG], TYPES[stat.S_IFLNK]
_CHUNKED = int(Layout.CHUNKED)
_KINDS = [TYPES.get(mode << 12) for mode in range(16)]
"""By the upper bits of the mode."""
_EMPTY = frozenset(TYPES[kind] for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO))
_DEVICES = frozenset(TYPES[kind] for kind in (stat.S_IFCHR, stat.S_IFBLK))
_MOST_KNOWN = 1 << 20
"""Directories in one directory, and files of several names: their
numbers are in memory, some 100 bytes each."""


def verify(fd: int, names: int, check: Callable[[], None]) -> None:
    """Read all structures of the image in `fd`, of at most so many `names`; `check` is called
    often.

    Raises:
        CorruptContentError: it is not as `writer` makes them, has more names, a directory that
            holds more than a million directories, or more than a million files of several names.
    """
    info = os.fstat(fd)
    blocks, rest = divmod(info.st_size, BLOCK)
    if not stat.S_ISREG(info.st_mode) or rest or not 0 < blocks <= MOST_BLOCKS:
        raise damaged("its file")
    image = Image.of(fd)
    first = image.read(0, BLOCK)
    expected = encode_superblock(first, image.count(), blocks)
    if first[SUPER : SUPER + SUPER_SIZE] != expected:
        raise damaged("the superblock")
    walk = _Walk(fd, blocks, names, check)
    pending = array.array("Q", (ROOT_NID, ROOT_NID))
    while pending:
        nid, parent = pending.pop(), pending.pop()
        for below in walk.directory(nid, parent):
            pending.extend((nid, below))


class _Walk:
    """Looks at one directory after the other, and at what is in it."""

    def __init__(self, fd: int, blocks: int, names: int, check: Callable[[], None]) -> None:
        self._fd = fd
        self._image = Image.of(fd)
        self._blocks = blocks
        self._end = blocks * (BLOCK // SLOT)
        self._names = names
        self._check = check
        self._shared: set[int] = set()
        """Attributes that were looked at."""
        self._several: set[int] = set()
        """Inodes of several names that were looked at."""
        self._claims = Claims()

    def directory(self, nid: int, parent: int) -> set[int]:
        """Numbers of the directories in the directory `nid`, which is in `parent`. As each says
        itself what it is in, none is seen twice."""
        self._inode(nid, DIRECTORY)
        found = self._image.inode(nid)
        expected = {b".": nid, b"..": parent}
        below: set[int] = set()
        before = b""
        for number in range(-(-found.inode.size // BLOCK)):
            self._check()
            names, nids, kinds = split_block(self._image.directory_block(found, number))
            _check_names(before, names)
            before = names[-1]
            self._names -= len(names)
            for name, child, kind in zip(names, nids, kinds, strict=True):
                if kind != DIRECTORY:
                    self._inode(child, kind)
                elif name in expected:
                    self._names += 1
                    if child != expected.pop(name):
                        raise damaged("a directory")
                elif child in below or child == ROOT_NID:
                    raise damaged("a directory")
                else:
                    below.add(child)
            if len(below) > _MOST_KNOWN:
                raise damaged("a directory: it holds too many others")
            if self._names < 0:
                raise damaged("what it holds: more names than a layer has entries")
        if expected or found.inode.links != 2 + len(below):
            raise damaged("a directory")
        return below

    def _inode(self, nid: int, kind: int) -> None:
        """Of all there is this is done most: without `Image`'s comfort."""
        if not ROOT_NID <= nid < self._end:
            raise damaged("a number of an inode")
        address = nid * SLOT
        header, mode, size, links, layout, place, xattr_size, _, _, _ = unpack_inode(
            os.pread(self._fd, EXTENDED_SIZE, address), 0
        )
        own = header + xattr_size
        room = BLOCK - address % BLOCK - own
        if room < 0 or _KINDS[mode >> 12] != kind or not links:
            raise damaged("an inode")
        is_first = links == 1 or kind == DIRECTORY or self._is_first(nid)
        if xattr_size and is_first:
            self._xattrs(self._image.inode(nid))
        if kind in _EMPTY:
            # A device 0/0 would be a whiteout: those are made at the seal.
            if size or layout or bool(place) != (kind in _DEVICES):
                raise damaged("a device")
        elif layout == _CHUNKED:
            if kind != _FILE:
                raise damaged("the data of a directory or a link")
            if is_first:
                own += self._chunks(self._image.inode(nid))
        else:
            follows = size % BLOCK if layout else 0
            if bool(follows) != bool(layout) or follows > room:
                raise damaged("the last part of a file")
            own += follows
            size -= follows
            if size and not 0 < place <= self._blocks - -(-size // BLOCK):
                raise damaged("the place of a file's data")
            if kind == DIRECTORY:
                self._claims.take(place * BLOCK, size)
            elif kind == _LINK and b"\0" in self._image.link(self._image.inode(nid)):
                raise damaged("a link's target")
        if is_first:
            self._claims.take(address, own)

    def _is_first(self, nid: int) -> bool:
        """Whether this is the first name of an inode that has several."""
        if nid in self._several:
            return False
        if len(self._several) == _MOST_KNOWN:
            raise damaged("what it holds: too many files of several names")
        self._several.add(nid)
        return True

    def _chunks(self, found: Found) -> int:
        """The bytes of its map."""
        chunk_map = self._image.chunk_map(found)
        for block, size in stored(chunk_map, found.inode.place, found.inode.size):
            if not 0 < block <= self._blocks - -(-size // BLOCK):
                raise damaged("a sparse file")
        return len(chunk_map)

    def _xattrs(self, found: Found) -> None:
        body = self._image.body(found)
        every = list(inline_ones(body))
        for place in shared_ones(body):
            if place in self._shared:
                continue
            self._shared.add(place)
            address = 4 * place
            room = min(BLOCK - address % BLOCK, self._blocks * BLOCK - address)
            if len(self._shared) > MOST_SHARED or room <= 0:
                raise damaged("an extended attribute")
            every.append(decode_one(self._image.read(address, room)))
            self._claims.take(address, len(encode_xattr(*every[-1]) or b""))
        # The kernel takes no list of none. Overlay's own are set at the seal.
        if len(body) == LIST_HEADER or any(
            name.startswith(OVERLAYS) or encode_xattr(name, each) is None for name, each in every
        ):
            raise damaged("an extended attribute")


def _check_names(before: bytes, names: list[bytes]) -> None:
    """Whether the names of a block can be those, after the last one of the block before it."""
    every = b"".join(names)
    if (
        not all(map(operator.lt, (before, *names), names))
        or max(map(len, names)) > NAME_BYTES
        or b"/" in every
        or b"\0" in every
    ):
        raise damaged("a name")
