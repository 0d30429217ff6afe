"""Images that share layers, out of a seed: every kind of entry, whiteouts, opaque directories."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Sequence

from tests.support.images import (
    TIME,
    WHITEOUT,
    Node,
    Tree,
    directory,
    file,
    hardlink,
    symlink,
)
from tests.support.oracle import Sample


def family(seed: int, *, size: int = 200_000) -> list[Sample]:
    """Three images over one base: siblings that differ in their upper layers. No layer has more
    than about `size` bytes."""
    chance = random.Random(seed)
    base = base_tree(chance, size)
    middle = upper_tree(chance, [base], size)
    return [
        Sample.of(base, upper_tree(chance, [base], size)),
        Sample.of(base, middle, upper_tree(chance, [base, middle], size)),
        Sample.of(base, middle, *(upper_tree(chance, [base, middle], size) for _ in range(3))),
    ]


def base_tree(chance: random.Random, size: int) -> Tree:
    """A layer for the bottom of a stack."""
    tree: dict[str, Node] = {".": _directory(chance)}
    for top in ("bin", "etc", "usr", "var"):
        tree[top] = _directory(chance)
        for number in range(3):
            folder = f"{top}/d{number}"
            tree[folder] = _directory(chance)
            _fill(chance, tree, folder, size // 12)
    return tree


def upper_tree(chance: random.Random, below: Sequence[Tree], size: int) -> Tree:
    """A layer that adds to, replaces and hides what the layers `below` have."""
    tree: dict[str, Node] = {".": _directory(chance)}
    for top in chance.sample(("bin", "etc", "usr", "var"), 2):
        tree[top] = _directory(chance)
        changed, hidden, opaque = chance.sample(["d0", "d1", "d2"], 3)
        tree[f"{top}/{changed}"] = _directory(chance)
        _fill(chance, tree, f"{top}/{changed}", size // 4)
        for name in sorted({name for lower in below for name in lower}):
            if name.startswith(f"{top}/{changed}/") and name not in tree and chance.random() < 0.3:
                tree[f"{top}/{changed}/.wh.{name.rpartition('/')[2]}"] = WHITEOUT
        tree[f"{top}/.wh.{hidden}"] = WHITEOUT
        tree[f"{top}/{opaque}"] = _directory(chance)
        tree[f"{top}/{opaque}/.wh..wh..opq"] = WHITEOUT
        _fill(chance, tree, f"{top}/{opaque}", size // 4)
    return tree


def _fill(chance: random.Random, tree: dict[str, Node], folder: str, size: int) -> None:
    files = []
    for _ in range(chance.randint(2, 5)):
        name = f"{folder}/f{chance.randrange(12)}"
        if f"{folder}/.wh.{name.rpartition('/')[2]}" in tree or name in tree:
            continue
        tree[name] = file(
            chance.randbytes(chance.randint(0, size // 5)),
            chance.choice((0o644, 0o755, 0o600, 0o4755)),
            xattrs={"user.origin": b"sample"} if chance.random() < 0.3 else {},
            **_owner(chance),
        )
        files.append(name)
    if files:
        tree[f"{folder}/link"] = symlink(chance.choice(files), **_owner(chance))
        tree[f"{folder}/twin"] = hardlink(chance.choice(files))
    tree[f"{folder}/pipe"] = Node(type=tarfile.FIFOTYPE, mode=0o640, **_owner(chance))


def _directory(chance: random.Random) -> Node:
    return directory(chance.choice((0o755, 0o700, 0o1777)), **_owner(chance))


def _owner(chance: random.Random) -> dict[str, int]:
    return {
        "uid": chance.choice((0, 1000, 65534)),
        "gid": chance.choice((0, 1000)),
        "mtime": TIME + chance.randrange(10**8),
    }
