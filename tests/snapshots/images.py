"""A directory as an image, by the sink that layers go through."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cri_imaged.erofs.format import Stat
from cri_imaged.layers.sinks.image import ImageSink
from cri_imaged.layers.tar.entry import Entry, Kind
from cri_imaged.limits import Limits

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


def pack(tree: Path, image: Path) -> None:
    """Write the image of what is in `tree`."""
    sink = ImageSink(os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC), Limits())
    seen: dict[tuple[int, int], bytes] = {}
    _pack(os.fsencode(tree), b"", sink, seen)
    info = tree.stat()
    root = sink._tree.root  # of which an archive may say nothing but the time
    root.stat = Stat(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
    root.xattrs = _xattrs(os.fsencode(tree))
    sink.finish()


def _pack(place: bytes, path: bytes, sink: ImageSink, seen: dict[tuple[int, int], bytes]) -> None:
    for name in sorted(os.listdir(place)):
        child, name = os.path.join(place, name), path + b"/" + name if path else name
        info = os.lstat(child)
        kind, link, data = _KINDS[stat.S_IFMT(info.st_mode)], b"", b""
        spans: tuple[tuple[int, int], ...] | None = None
        first = seen.setdefault((info.st_dev, info.st_ino), name)
        if kind is Kind.SYMLINK:
            link = os.readlink(child)
        elif kind is Kind.FILE:
            spans, data = _data(child, info)
        if kind is not Kind.DIRECTORY and first != name:
            kind, link, data, spans = Kind.HARDLINK, first, b"", None
        entry = Entry(
            name=name,
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=info.st_uid,
            gid=info.st_gid,
            mtime=info.st_mtime_ns,
            size=len(data),
            link=link,
            major=os.major(info.st_rdev),
            minor=os.minor(info.st_rdev),
            offset=0,
            xattrs=_xattrs(child),
            sparse=spans,
            length=info.st_size,
        )
        sink.add(entry, memoryview(data))
        if kind is Kind.DIRECTORY:
            _pack(child, name, sink, seen)


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


def _data(path: bytes, info: os.stat_result) -> tuple[tuple[tuple[int, int], ...] | None, bytes]:
    """Where a file with holes has data, and the data."""
    with open(path, "rb") as file:
        if info.st_blocks * 512 >= info.st_size:
            return None, file.read()
        spans, data, at = [], b"", 0
        while at < info.st_size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            spans.append((at, end - at))
            data += os.pread(file.fileno(), end - at, at)
            at = end
        return tuple(spans), data
