"""What stacking layers means, on plain dictionaries: the oracle for the snapshotters.

Nothing here uses the code under test. A layer is written to an empty directory by `write`, which
returns the `Applied` that an applier would report for it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Applied, Usage

PRIVILEGED = os.geteuid() == 0
MINUTE = 60 * 10**9
BASE_TIME = 1_600_000_000 * 10**9


@dataclass(frozen=True)
class Node:
    """One name in a tree. Names with the same `file`, unless it is None, are one file."""

    kind: str
    """directory, file, symlink, fifo, device"""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int | None = BASE_TIME
    """In nanoseconds; None where nothing says what it should be."""
    content: bytes = b""
    """Of a file; a link's target; a device's number in decimal."""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    file: object = None


Tree = dict[bytes, Node]
DEFAULT = Node("directory", 0o755, mtime=None)


@dataclass(frozen=True)
class Layer:
    """What one layer lists. Parents that are not in `entries` are implicit; whiteouts make none."""

    entries: dict[bytes, Node] = field(default_factory=dict)
    hardlinks: dict[bytes, bytes] = field(default_factory=dict)
    """Further names of files in `entries`."""
    whiteouts: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()
    links: tuple[tuple[bytes, bytes], ...] = ()
    """Hardlinks to what only the layers below have."""

    @property
    def implicit(self) -> list[bytes]:
        named = [*self.entries, *self.hardlinks, *self.opaques]
        named += [name for name, _ in self.links]
        directories = {above for path in named for above in parents(path)} | {*self.opaques, b""}
        return sorted(directories - self.entries.keys())


def parents(path: bytes) -> Iterator[bytes]:
    """Directories above `path`, the nearest first, the root last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def merge(below: Tree, layer: Layer) -> Tree:
    """The tree that `layer` makes of the tree `below`."""
    own = dict(layer.entries)
    for name, target in layer.hardlinks.items():
        own[name] = own[target]
    copies: Tree = {}
    for name, target in layer.links:
        if target not in copies:
            copies[target] = replace(below[target], file=object())
        own[name] = copies[name] = copies[target]
    for path in layer.implicit:
        hidden = any(above in layer.opaques for above in parents(path))
        visible = below.get(path)
        shown = visible is not None and visible.kind == "directory" and not hidden
        own[path] = visible if shown else DEFAULT

    def survives(path: bytes) -> bool:
        if path in own or path in layer.whiteouts:
            return False
        for above in parents(path):
            if above in layer.whiteouts or above in layer.opaques:
                return False
            if above in own and own[above].kind != "directory":
                return False
            if below[above].kind != "directory":
                return False
        return True

    return {path: node for path, node in below.items() if survives(path)} | own


def write(layer: Layer, directory: Path) -> Applied:
    """Do what an applier does with `layer` alone."""
    root = os.fsencode(directory)
    made = {**dict.fromkeys(layer.implicit, DEFAULT), **layer.entries}
    for path in sorted(made):
        create(os.path.join(root, path) if path else root, made[path])
    for name, target in layer.hardlinks.items():
        os.link(os.path.join(root, target), os.path.join(root, name), follow_symlinks=False)
    for path in sorted(made, reverse=True):
        finish(os.path.join(root, path) if path else root, made[path])
    count = len(made) + len(layer.hardlinks)
    return Applied(
        diff_id=Digest.of(repr(sorted(made)).encode()),
        size=0,
        entries=count,
        usage=Usage(sum(len(node.content) for node in made.values() if node.kind == "file"), count),
        whiteouts=layer.whiteouts,
        opaques=layer.opaques,
        implicit=tuple(path for path in layer.implicit),
        links=layer.links,
    )


def create(path: bytes, node: Node) -> None:
    if node.kind == "directory":
        os.makedirs(path, exist_ok=True)
    elif node.kind == "file":
        with open(path, "xb") as file:
            file.write(node.content)
    elif node.kind == "symlink":
        os.symlink(node.content, path)
    elif node.kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, int(node.content))


def finish(path: bytes, node: Node) -> None:
    """Attributes, once nothing more comes into a directory."""
    if PRIVILEGED:
        os.chown(path, node.uid, node.gid, follow_symlinks=False)
    for key, value in node.xattrs:
        os.setxattr(path, key, value, follow_symlinks=False)
    if node.mtime is not None:
        os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)
    if node.kind != "symlink":
        os.chmod(path, node.mode)


_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "device",
}


def scan(root: Path) -> Tree:
    """What is at `root`, whatever modes forbid it to its owner. `file` is device and inode."""
    found: Tree = {}
    _scan(os.fsencode(root), b"", found)
    return found


def _scan(place: bytes, path: bytes, found: Tree) -> None:
    info = os.lstat(place)
    kind = _KINDS[stat.S_IFMT(info.st_mode)]
    with _widened(place, info.st_mode, kind):
        found[path] = Node(
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=info.st_uid,
            gid=info.st_gid,
            mtime=info.st_mtime_ns,
            content=_content(place, kind, info),
            xattrs=tuple(
                (key, os.getxattr(place, key, follow_symlinks=False))
                for key in sorted(os.listxattr(place, follow_symlinks=False))
                if key != "trusted.overlay.opaque"
            ),
            file=(info.st_dev, info.st_ino),
        )
        if kind == "directory":
            for name in os.listdir(place):
                _scan(os.path.join(place, name), path + b"/" + name if path else name, found)


@contextlib.contextmanager
def _widened(place: bytes, mode: int, kind: str) -> Iterator[None]:
    tight = not PRIVILEGED and kind in ("directory", "file") and mode & 0o500 != 0o500
    if tight:
        os.chmod(place, stat.S_IMODE(mode) | 0o500)
    try:
        yield
    finally:
        if tight:
            os.chmod(place, stat.S_IMODE(mode))


def _content(place: bytes, kind: str, info: os.stat_result) -> bytes:
    if kind == "file":
        with open(place, "rb") as file:
            return file.read()
    if kind == "symlink":
        return os.readlink(place)
    return str(info.st_rdev).encode() if kind == "device" else b""


def differences(actual: Tree, wanted: Tree) -> list[str]:
    """Where a scanned tree is not what the model says, a line each."""
    lines = [f"missing: {path!r}" for path in sorted(wanted.keys() - actual.keys())]
    lines += [f"not wanted: {path!r}" for path in sorted(actual.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & actual.keys()):
        ours, theirs = _comparable(actual[path], wanted[path]), _comparable(wanted[path])
        lines += [
            f"{path!r}: {key}: {ours[key]!r}, wanted {theirs[key]!r}"
            for key in theirs
            if ours[key] != theirs[key]
        ]
    if not lines and _groups(actual) != _groups(wanted):
        lines.append(f"one file: {_groups(actual)!r}, wanted {_groups(wanted)!r}")
    return lines


def _comparable(node: Node, wanted: Node | None = None) -> dict[str, object]:
    fields: dict[str, object] = {
        "kind": node.kind,
        "content": node.content,
        "xattrs": tuple(sorted(node.xattrs)),
        "mtime": node.mtime,
    }
    if (wanted or node).mtime is None:
        del fields["mtime"]
    if node.kind != "symlink":
        fields["mode"] = node.mode
    if PRIVILEGED:
        fields["owner"] = (node.uid, node.gid)
    return fields


def _groups(tree: Tree) -> list[list[bytes]]:
    """Names that are one file, where it has several."""
    names: dict[object, list[bytes]] = defaultdict(list)
    for path in sorted(tree):
        if tree[path].kind != "directory":
            names[tree[path].file or path].append(path)
    return sorted(group for group in names.values() if len(group) > 1)
