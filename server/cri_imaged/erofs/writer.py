"""Writes an image: files as their data comes, everything else as it is known, then the superblock.

What a stranger's layer says is checked here against what the format can hold: an image is sound
or is not written.
"""

from __future__ import annotations

from collections.abc import Mapping

from cri_imaged.erofs.blocks import Blocks
from cri_imaged.erofs.chunks import ChunkWriter, Spans, chunk_bits
from cri_imaged.erofs.directories import PARENT, Directory
from cri_imaged.erofs.format import (
    BLOCK,
    ROOT_NID,
    SLOT,
    SUPER,
    Inode,
    Layout,
    Stat,
    encode_inode,
    encode_superblock,
    header_size,
    pack_inode,
)
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.erofs.xattrs import encode_body

Xattrs = Mapping[bytes, bytes]
"""Names, and what `encode_xattr` makes of each."""

MOST_SHARED = 4096
"""Attributes that are remembered, to be shared."""
_SHARED_END = 4 << 32
"""Up to where in an image something can be shared: it is named by a number of 32 bits."""
MOST_BLOCKS = 0xFFFFFFFE


class ImageWriter:
    """Writes into an open file. What it returns for each inode is its number."""

    def __init__(self, blocks: Blocks, inodes: int = 0) -> None:
        """`blocks` of an image that has so many `inodes` already."""
        self.blocks = blocks
        self.left_out = 0
        """Extended attributes that had no room."""
        self._inodes = inodes
        self._seen: dict[bytes, int | None] = {}
        self._head = b""
        """Of the file that is written: its inode, with its attributes."""
        self._left = 0
        """Bytes that still go into blocks."""
        self._rest = 0
        """Bytes that still come after them."""
        self._tail = bytearray()
        self._chunks: ChunkWriter | None = None

    @classmethod
    def begin(cls, fd: int) -> ImageWriter:
        """A new image in the empty file `fd`, open to read and write."""
        blocks = Blocks(fd)
        blocks.append(bytes(BLOCK))
        return cls(blocks)

    # --- files -------------------------------------------------------------------------------

    def file(self, status: Stat, xattrs: Xattrs, data: memoryview, links: int = 1) -> int:
        """A file whose data is all here."""
        head, left = self._begin(status, xattrs, len(data), links)
        if left:
            self.blocks.append(data[:left])
            self.blocks.fill_block()
        return self._write(head + data[left:])

    def begin_file(self, status: Stat, xattrs: Xattrs, size: int, links: int = 1) -> None:
        """A file whose `size` bytes come by `write`, and then `end_file`."""
        self._head, self._left = self._begin(status, xattrs, size, links)
        self._rest = size - self._left
        self._tail = bytearray()

    def begin_sparse(
        self, status: Stat, xattrs: Xattrs, spans: Spans, length: int, links: int = 1
    ) -> None:
        """As `begin_file`, for a file that has data at `spans` alone. Raises `ValueError` where the
        format cannot hold it."""
        if not length:
            self.begin_file(status, xattrs, 0, links)
            return
        bits, _ = chunk_bits(spans, length)
        body = self.body_of(xattrs, BLOCK - header_size(status, length, links))
        head = pack_inode(status, length, links, Layout.CHUNKED, bits, len(body))
        self._head, self._left, self._rest = head + body, 0, 0
        self._chunks = ChunkWriter(self.blocks, spans, length, bits)

    def write(self, data: memoryview) -> None:
        """The next bytes of the file."""
        if self._chunks is not None:
            self._chunks.write(data)
            return
        if self._left:
            part = data[: self._left]
            self.blocks.append(part)
            self._left -= len(part)
            data = data[len(part) :]
        self._tail += data

    def end_file(self) -> int:
        """All of it was written."""
        if self._chunks is not None:
            chunk_map, self._chunks = self._chunks.finish(), None
            return self._write(self._head + chunk_map)
        if self._left or len(self._tail) != self._rest:
            raise ValueError("not the file that was begun")
        self.blocks.fill_block()
        return self._write(self._head + self._tail)

    def _begin(self, status: Stat, xattrs: Xattrs, size: int, links: int) -> tuple[bytes, int]:
        """Decide where the data of a file goes: its inode with its attributes, and how many bytes
        go into blocks from here on. The others follow the inode."""
        header = header_size(status, size, links)
        body = self.body_of(xattrs, BLOCK - header) if xattrs else b""
        tail = size % BLOCK
        inline = tail and header + len(body) + tail <= BLOCK
        left = size - tail if inline else size
        place = self.blocks.end // BLOCK if left else 0
        layout = Layout.INLINE if inline else Layout.PLAIN
        return pack_inode(status, size, links, layout, place, len(body)) + body, left

    # --- everything else ---------------------------------------------------------------------

    def symlink(self, status: Stat, xattrs: Xattrs, target: bytes, links: int = 1) -> int:
        """A symbolic link."""
        if not 0 < len(target) < BLOCK:
            raise ValueError("not a link's target")
        return self.file(status, xattrs, memoryview(target), links)

    def node(self, status: Stat, xattrs: Xattrs, device: int = 0, links: int = 1) -> int:
        """A device by its number, or a fifo."""
        body = self.body_of(xattrs, BLOCK - header_size(status, 0, links))
        return self._write(pack_inode(status, 0, links, Layout.PLAIN, device, len(body)) + body)

    def directory(self, status: Stat, xattrs: Xattrs, names: Mapping[bytes, int]) -> Directory:
        """A directory that holds `names`, each with a number and a type (`Directory.value`). Its
        own parent is still to be told."""
        directory = Directory(names)
        inode = Inode(status, directory.size, directory.links)
        tail = directory.size % BLOCK
        body = self.body_of(xattrs, BLOCK - inode.header_size)
        inline = bool(tail) and inode.header_size + len(body) + tail <= BLOCK
        address = self.blocks.allocate(inode.header_size + len(body) + inline * tail)
        self._fill(directory, inode, body, address, inline=inline)
        return directory

    def root(self, status: Stat, xattrs: Xattrs, names: Mapping[bytes, int]) -> Directory:
        """The root directory, which has its own place and is its own parent."""
        directory = Directory(names)
        inode = Inode(status, directory.size, directory.links)
        address = ROOT_NID * SLOT
        body = self.body_of(xattrs, BLOCK - address - inode.header_size)
        tail = directory.size % BLOCK
        inline = bool(tail) and address + inode.header_size + len(body) + tail <= BLOCK
        self._fill(directory, inode, body, address, inline=inline)
        self.set_parent(directory.parent_at, ROOT_NID)
        return directory

    def set_parent(self, address: int, nid: int) -> None:
        """Tell a directory, by its `parent_at`, which one it is in."""
        self.blocks.put(address, PARENT.pack(nid))

    def rewrite(self, image: Image, found: Found, inode: Inode, xattrs: Xattrs | None) -> int:
        """Let what is no directory say something else: another `inode` of the same data, and other
        attributes, unless that is None. Its number now."""
        tail = inode.size % BLOCK if inode.layout is Layout.INLINE else 0
        if xattrs is None:
            body = image.body(found)
        else:
            body = self.body_of(xattrs, BLOCK - inode.header_size - tail)
        size = inode.header_size + len(body)
        if found.address + size == found.behind:
            self.blocks.put(found.address, encode_inode(inode, len(body)) + body)
            return found.nid
        if inode.header_size + len(body) + tail > BLOCK:
            raise ValueError("a file's last part does not fit behind it")
        behind = image.chunk_map(found) if inode.layout is Layout.CHUNKED else b""
        behind = behind or image.read(found.behind, tail)
        return self._write(encode_inode(inode, len(body)) + body + behind)

    def _fill(
        self, directory: Directory, inode: Inode, body: bytes, address: int, *, inline: bool
    ) -> None:
        directory.nid = address // SLOT
        if not inline or inode.size > BLOCK:
            inode.place = self.blocks.end // BLOCK
        inode.layout = Layout.INLINE if inline else Layout.PLAIN
        after = address + inode.header_size + len(body)
        for data, is_last in directory.blocks():
            at = after if is_last and inline else self.blocks.end
            directory.place(at)
            if is_last and inline:
                self.blocks.put(after, data)
            else:
                self.blocks.append(data)
                self.blocks.fill_block()
        self.blocks.put(address, encode_inode(inode, len(body)) + body)
        self._inodes += 1

    def _write(self, data: bytes) -> int:
        """An inode with all that follows it."""
        if len(data) <= BLOCK:
            address = self.blocks.place(data)
        else:  # a map of chunks
            address = self.blocks.end
            self.blocks.append(data)
            self.blocks.fill_block()
        self._inodes += 1
        return address // SLOT

    def body_of(self, xattrs: Xattrs, room: int) -> bytes:
        """What follows an inode with these attributes: at most so many bytes."""
        if not xattrs:
            return b""
        body, left_out = encode_body(xattrs, self._shared, room)
        self.left_out += left_out
        return body

    def _shared(self, entry: bytes) -> int | None:
        """Where `entry` is to be shared: from the second time on."""
        if entry not in self._seen:
            if len(self._seen) < MOST_SHARED:
                self._seen[entry] = None
            return None
        place = self._seen[entry]
        if place is None and self.blocks.end < _SHARED_END and len(entry) <= BLOCK:
            place = self._seen[entry] = self.blocks.place(entry) // 4
        return place

    def finish(self) -> None:
        """Write the superblock: from now on it is an image.

        Raises:
            ValueError: it is larger than the format can say.
        """
        if any(self.blocks.get(self.blocks.end - SLOT, SLOT)):
            # fsck.erofs 1.5 reads on behind an inode that has no attributes, here over the end.
            self.blocks.skip(BLOCK)
        count = self.blocks.end // BLOCK
        if count > MOST_BLOCKS:
            raise ValueError("an image of more than 16 TiB")
        first = self.blocks.get(0, BLOCK)
        self.blocks.put(SUPER, encode_superblock(first, self._inodes, count))
        self.blocks.flush()
