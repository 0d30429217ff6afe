"""What a directory holds, as plain values."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """One name. `inode` tells which names are one file."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    links: int = 1
    inode: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


def listing(root: Path) -> dict[str, Node]:
    """Every name under `root` (itself ""), relative."""
    found = {"": _node(root)}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder) / name
            found[str(path.relative_to(root))] = _node(path)
    return found


def kinds(root: Path) -> dict[str, str]:
    """Every name under `root` with its kind alone."""
    return {path: node.kind for path, node in listing(root).items() if path}


def _node(path: Path) -> Node:
    status = path.lstat()
    mode = status.st_mode
    content, device, xattrs = b"", (0, 0), ()
    if stat.S_ISREG(mode):
        kind, content = "file", path.read_bytes()
    elif stat.S_ISDIR(mode):
        kind = "directory"
    elif stat.S_ISLNK(mode):
        kind, content = "symlink", os.readlink(os.fsencode(path))
    elif stat.S_ISFIFO(mode):
        kind = "fifo"
    else:
        kind = "character device" if stat.S_ISCHR(mode) else "block device"
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind in ("file", "directory"):
        xattrs = tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
    return Node(
        kind,
        stat.S_IMODE(mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        content,
        device,
        status.st_nlink,
        status.st_ino,
        xattrs,
    )
