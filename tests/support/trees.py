"""What a directory tree holds, as a value that can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One name in a tree, with everything a container could see of it."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str
    """Digest of a file's bytes, a symlink's target, a device's number."""
    xattrs: tuple[tuple[str, bytes], ...]
    same_file: tuple[str, ...]
    """All names of this file within the tree, where it has several."""


def describe(root: Path) -> dict[str, Entry]:
    """Every entry under `root` (itself as "."), by path."""
    names: dict[tuple[int, int], list[str]] = {}
    stats: dict[str, os.stat_result] = {}
    for path in [root, *root.rglob("*")]:
        name = str(path.relative_to(root))
        stats[name] = path.lstat()
        if not path.is_dir() or path.is_symlink():
            names.setdefault((stats[name].st_dev, stats[name].st_ino), []).append(name)
    shared = {key: tuple(sorted(group)) for key, group in names.items() if len(group) > 1}
    return {
        name: _entry(root / name, info, shared.get((info.st_dev, info.st_ino), ()))
        for name, info in stats.items()
    }


def _entry(path: Path, info: os.stat_result, same_file: tuple[str, ...]) -> Entry:
    return Entry(
        kind=stat.filemode(info.st_mode)[0],
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        content=_content(path, info),
        xattrs=tuple(
            (key, os.getxattr(path, key, follow_symlinks=False))
            for key in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        same_file=same_file,
    )


def _content(path: Path, info: os.stat_result) -> str:
    if stat.S_ISREG(info.st_mode):
        with path.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    if stat.S_ISLNK(info.st_mode):
        return str(path.readlink())
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        return f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    return ""


def difference(left: dict[str, Entry], right: dict[str, Entry]) -> list[str]:
    """Where two trees differ, one line each, for people."""
    lines = [f"only on the left: {name}" for name in sorted(left.keys() - right.keys())]
    lines += [f"only on the right: {name}" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        for field in Entry._fields:
            ours, theirs = getattr(left[name], field), getattr(right[name], field)
            if ours != theirs:
                lines.append(f"{name}: {field}: {ours!r} != {theirs!r}")
    return lines
