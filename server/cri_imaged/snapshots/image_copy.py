"""Copy what images hold into another one: a file for a link, or all of a stack, where there are
more layers than the kernel merges."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cri_imaged.erofs.allowed import encoded
from cri_imaged.erofs.directories import value
from cri_imaged.erofs.format import DIRECTORY, TYPES, Stat, encode_inode
from cri_imaged.erofs.reader import Image
from cri_imaged.erofs.writer import ImageWriter, Xattrs
from cri_imaged.errors import LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.snapshots.images import OPAQUE, Held, is_whiteout, open_image


def copy_file(
    writer: ImageWriter,
    source: Held,
    status: Stat,
    xattrs: Xattrs,
    links: int,
    check: Callable[[], None],
) -> int:
    """Copy what is no directory, data and all, under another status. Its number in the image that
    is written."""
    image, found = source
    kind = stat.S_IFMT(status.mode)
    if kind == stat.S_IFLNK:
        return writer.symlink(status, xattrs, image.link(found), links)
    if kind != stat.S_IFREG:
        return writer.node(status, xattrs, found.inode.place, links)
    spans = image.spans(found)
    if spans is None:
        writer.begin_file(status, xattrs, found.inode.size, links)
    else:
        writer.begin_sparse(status, xattrs, spans, found.inode.size, links)
    for piece in image.data(found):
        check()
        writer.write(memoryview(piece))
    return writer.end_file()


def merge_images(
    layers: Sequence[Path], into: Path, check: Callable[[], None], limits: Limits
) -> None:
    """Write the tree that an overlay of the sealed images `layers`, topmost first, would show into
    a new image, whose root is opaque: with it a stack ends.

    Raises:
        LimitExceededError: it is larger than a layer may be, or of more names or directories.
    """
    with ExitStack() as files:
        fd = os.open(into, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        files.callback(os.close, fd)
        roots = [open_image(layer, files) for layer in layers]
        _Merging(ImageWriter.begin(fd), check, limits).run(roots)


@dataclass(slots=True)
class _Directory:
    """One that is being written: what is in it comes first."""

    name: bytes
    parts: Sequence[Held]
    """Of the layers, topmost first."""
    names: dict[bytes, int] = field(default_factory=dict)
    below: dict[bytes, list[Held]] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    """Where the directories in it say what they are in."""


class _Merging:
    def __init__(self, writer: ImageWriter, check: Callable[[], None], limits: Limits) -> None:
        self._writer = writer
        self._check = check
        self._limits = limits
        self._entered = 0
        self._copied = 0
        self._linked: dict[tuple[Image, int], list[int]] = {}
        """Number and names of each file that has, or had, several."""

    def run(self, roots: Sequence[Held]) -> None:
        """Write all of it."""
        pending = [self._entering(b"", roots)]
        while pending:
            directory = pending[-1]
            if directory.below:
                pending.append(self._entering(*directory.below.popitem()))
                continue
            pending.pop()
            self._write(directory, pending[-1] if pending else None)
        self._count_links()
        self._writer.finish()

    def _entering(self, name: bytes, parts: Sequence[Held]) -> _Directory:
        """Copy what is no directory in `name`."""
        self._entered += len(parts)
        if self._entered > self._limits.seal_directories:
            raise LimitExceededError("the layers have too many directories (seal_directories)")
        directory = _Directory(name, parts)
        ended = {b".", b".."}
        for part in parts:
            self._check()
            for dirent in part.image.entries(part.found):
                child = dirent.entry.name
                if child in ended:
                    continue
                held = Held(part.image, part.image.inode(dirent.entry.nid))
                if held.found.is_directory:
                    directory.below.setdefault(child, []).append(held)
                    if held.is_opaque:
                        ended.add(child)
                    continue
                ended.add(child)
                if child not in directory.below and not is_whiteout(held.found):
                    directory.names[child] = self._copy(held)
        return directory

    def _copy(self, held: Held) -> int:
        self._check()
        self._copied += 1
        if self._copied > self._limits.layer_entries:
            raise LimitExceededError(
                f"more layers than overlay merges, and together they have more than "
                f"{self._limits.layer_entries} names of files (layer_entries)"
            )
        status, key = held.stat, (held.image, held.found.nid)
        linked = self._linked.get(key)
        if linked is None:
            links = held.found.inode.links
            xattrs = encoded(held.xattrs(), status.mode)
            linked = [copy_file(self._writer, held, status, xattrs, links, self._check), 0]
            if links > 1:
                self._linked[key] = linked
            if self._writer.blocks.end > self._limits.layer_bytes:
                raise LimitExceededError(
                    f"more layers than overlay merges, and together they take more than "
                    f"{self._limits.layer_bytes} bytes (layer_bytes)"
                )
        linked[1] += 1
        return value(linked[0], TYPES[stat.S_IFMT(status.mode)])

    def _write(self, directory: _Directory, parent: _Directory | None) -> None:
        shown = directory.parts[0]
        xattrs = shown.xattrs()
        if parent is None:
            xattrs[OPAQUE] = b"y"
        make = self._writer.directory if parent else self._writer.root
        made = make(shown.stat, encoded(xattrs, shown.stat.mode), directory.names)
        for address in directory.parents:
            self._writer.set_parent(address, made.nid)
        if parent is not None:
            parent.names[directory.name] = value(made.nid, DIRECTORY)
            parent.parents.append(made.parent_at)

    def _count_links(self) -> None:
        """Some names may be hidden."""
        written = Image(self._writer.blocks.get)
        for nid, names in self._linked.values():
            found = written.inode(nid)
            size = found.inode.header_size
            found.inode.links = names
            if found.inode.header_size == size:
                self._writer.blocks.put(found.address, encode_inode(found.inode, found.xattr_size))
