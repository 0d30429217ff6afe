"""What a directory tree holds, entry by entry: for comparing one tree with another, or with what
was written down about it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One path of a tree, comparable in all that an image promises."""

    path: str
    """Relative; bytes that are no UTF-8 as surrogates."""
    type: str
    """`file`, `directory`, `symlink`, `whiteout` (an overlay's), or `device` for all else."""
    mode: int
    uid: int
    gid: int
    size: int
    """Of a file; 0 for all else."""
    device: int
    """Of a device; 0 for all else."""
    content: str
    """A file's SHA-256, a symlink's target."""
    modified: int
    """Unix nanoseconds; 0 for a directory, whose time is set by what is done in it, and for a
    whiteout, which is made when the snapshot is sealed."""
    xattrs: tuple[tuple[str, str], ...]
    """Names, and values in base64; sorted."""


_COMPARED = ("type", "mode", "uid", "gid", "size", "device", "content", "modified", "xattrs")


def list_tree(root: Path) -> Iterator[ListedEntry]:
    """Every entry of the tree, the root first, each directory before its content, sorted. Follows
    no link. Blocks; meant for a thread.

    Raises:
        OSError: the tree cannot be read; a part of it may have gone.
    """
    yield _entry(root, "")
    pending = [""]
    while pending:
        folder = pending.pop()
        names = sorted(os.listdir(root / folder), reverse=True)
        directories = []
        for name in reversed(names):
            path = os.path.join(folder, name)
            entry = _entry(root / path, path)
            yield entry
            if entry.type == "directory":
                directories.append(path)
        pending.extend(reversed(directories))


def write_listing(entries: Iterable[ListedEntry], file: Path) -> None:
    """Write `entries` down, one JSON object a line; `file` appears whole or not at all."""
    # Not the same for all: one that was cancelled may still be at it.
    unfinished = file.with_suffix(f".{uuid.uuid4().hex}")
    with unfinished.open("w") as out:
        for entry in entries:
            out.write(json.dumps(asdict(entry)) + "\n")
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(file)


def read_listing(file: Path) -> Iterator[ListedEntry]:
    """What `write_listing` wrote."""
    with closing(file.open()) as lines:
        for line in lines:
            values = json.loads(line)
            values["xattrs"] = tuple(tuple(pair) for pair in values["xattrs"])
            yield ListedEntry(**values)


def first_difference(wanted: Iterable[ListedEntry], found: Iterable[ListedEntry]) -> str | None:
    """In words, the first entry in which two listings differ."""
    for want, have in itertools.zip_longest(wanted, found):
        if want == have:
            continue
        if have is None or (want is not None and want.path < have.path):
            return f"{want.path!r} is missing"
        if want is None or have.path < want.path:
            return f"{have.path!r} does not belong there"
        fields = [name for name in _COMPARED if getattr(want, name) != getattr(have, name)]
        return f"{want.path!r} has another {', '.join(fields)}"
    return None


def _entry(path: Path, name: str) -> ListedEntry:
    status = os.lstat(path)
    kind, content, size, device = "device", "", 0, status.st_rdev
    if stat.S_ISREG(status.st_mode):
        kind, content, size, device = "file", _digest(path), status.st_size, 0
    elif stat.S_ISDIR(status.st_mode):
        kind, device = "directory", 0
    elif stat.S_ISLNK(status.st_mode):
        kind, content, device = "symlink", os.readlink(path), 0
    elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        kind = "whiteout"
    return ListedEntry(
        path=name,
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        device=device,
        content=content,
        modified=0 if kind in ("directory", "whiteout") else status.st_mtime_ns,
        xattrs=_xattrs(path),
    )


def _digest(path: Path) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ()
    return tuple(
        sorted(
            (name, base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode())
            for name in names
        )
    )
