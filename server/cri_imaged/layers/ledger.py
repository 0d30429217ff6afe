"""What one layer leaves to be done at its seal: whiteouts, opaques, implicit directories, links.

Pure: what the directory holds is asked of the caller. Paths are canonical: relative, without
`.`, `..` or symlinks among their parents. Every step is linear in the layer's entries.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cri_imaged.errors import LimitExceededError
from cri_imaged.layers.paths import join

_OVERHEAD = 32
"""Counted for each path besides its bytes."""


class Held(enum.Enum):
    """What a layer's directory holds at some path."""

    DIRECTORY = "directory"
    OTHER = "other"


class Seal(NamedTuple):
    """What `Applied` says of the seal; the fields' meanings are there."""

    whiteouts: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()
    implicit: tuple[bytes, ...] = ()
    links: tuple[tuple[bytes, bytes], ...] = ()


class Ledger:
    """Collects during a layer, and settles at its end."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes that all paths may take together (`Limits.seal_bytes`)."""
        self._limit = limit
        self._spent = 0
        self._order = 0
        self._whiteouts: set[bytes] = set()
        self._opaques: set[bytes] = set()
        self._implicit: set[bytes] = {b""}
        self.has_links = False
        """Whether any link was ever noted."""
        self._links: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}

    def whiteout(self, path: bytes) -> None:
        """The layer hides `path` of the layers below."""
        self._add(self._whiteouts, path)

    def opaque(self, directory: bytes) -> None:
        """The layer hides all that the layers below hold in `directory`."""
        self._add(self._opaques, directory)

    def implicit(self, directory: bytes) -> None:
        """`directory` was made because something is in it."""
        self._add(self._implicit, directory)

    def listed(self, directory: bytes) -> None:
        """`directory` is an entry of the layer."""
        if directory in self._implicit:
            self._implicit.remove(directory)
            self._spend(-len(directory) - _OVERHEAD)

    def link(self, parent: bytes, name: bytes, target: bytes) -> None:
        """`name` in `parent` is a hardlink to `target`, which this layer does not hold."""
        self._spend(len(parent) + len(name) + len(target) + 2 * _OVERHEAD)
        self._order += 1
        self.has_links = True
        self._links.setdefault(parent, {})[name] = (self._order, target)

    def linked(self, parent: bytes, name: bytes) -> bytes | None:
        """The target, if that name is such a link."""
        found = self._links.get(parent, {}).get(name)
        return found[1] if found else None

    def unlink(self, parent: bytes, name: bytes) -> None:
        """Another entry takes the place of that name."""
        names = self._links.get(parent)
        if names and (dropped := names.pop(name, None)):
            self._spend(-len(parent) - len(name) - len(dropped[1]) - 2 * _OVERHEAD)

    def removed(self, directory: bytes) -> None:
        """`directory` of this layer was removed, with what was in it."""
        self.listed(directory)
        for name in list(self._links.get(directory, ())):
            self.unlink(directory, name)

    def missing(self, held: Callable[[bytes], Held | None]) -> list[bytes]:
        """Directories that whiteouts and opaques speak of and the layer no longer holds, as
        something took the place of one above them that gave way itself by now."""
        spoken_of = {path.rpartition(b"/")[0] for path in self._whiteouts} | self._opaques
        return sorted(path for path in spoken_of if _vanished(path, held))

    def settle(self, held: Callable[[bytes], Held | None]) -> Seal:
        """Decide, now that the layer is complete. `held` says what its directory holds at a path
        (links that are still to be made are known here)."""
        links = sorted(
            (order, join(parent, name), target)
            for parent, names in self._links.items()
            for name, (order, target) in names.items()
        )
        pending = {name for _, name, _ in links}
        opaques = {path for path in self._opaques if held(path) is Held.DIRECTORY}
        replaced = set()
        whiteouts = []
        for path in sorted(self._whiteouts - pending):
            parent = path.rpartition(b"/")[0]
            match held(path):
                case Held.DIRECTORY:
                    replaced.add(path)
                case None if held(parent) is Held.DIRECTORY:
                    whiteouts.append(path)
                case _:
                    pass
        tops = _outermost(opaques | replaced)
        return Seal(
            tuple(_outside(whiteouts, tops)),
            tuple(tops),
            tuple(path for path in _outside(self._implicit, tops) if path not in replaced),
            tuple((name, target) for _, name, target in links),
        )

    def _add(self, paths: set[bytes], path: bytes) -> None:
        if path not in paths:
            self._spend(len(path) + _OVERHEAD)
            paths.add(path)

    def _spend(self, count: int) -> None:
        self._spent += count
        if self._spent > self._limit:
            raise LimitExceededError(
                f"layer leaves whiteouts, implicit directories and links of more than "
                f"{self._limit} bytes of paths to its seal (seal_bytes)"
            )


def _vanished(path: bytes, held: Callable[[bytes], Held | None]) -> bool:
    """Whether `path` is not there, but could be a directory."""
    found = held(path)
    if found is not None:
        return False
    while found is None:
        path = path.rpartition(b"/")[0]
        found = held(path)
    return found is Held.DIRECTORY


def _tree_order(path: bytes) -> bytes:
    """Sorts a directory directly before all that is in it."""
    return path.replace(b"/", b"\0")


def _outermost(directories: Iterable[bytes]) -> list[bytes]:
    """Those that are not inside another one."""
    out: list[bytes] = []
    for path in sorted(directories, key=_tree_order):
        if not out or not _inside(path, out[-1]):
            out.append(path)
    return out


def _outside(paths: Iterable[bytes], tops: list[bytes]) -> Iterable[bytes]:
    """Those of `paths` that are not strictly inside one of `tops`, parents first."""
    at = 0
    for path in sorted(paths, key=_tree_order):
        key = _tree_order(path)
        while at < len(tops) and _tree_order(tops[at]) < key and not _inside(path, tops[at]):
            at += 1
        if at == len(tops) or not _inside(path, tops[at]):
            yield path


def _inside(path: bytes, directory: bytes) -> bool:
    return path != directory and (not directory or path.startswith(directory + b"/"))
