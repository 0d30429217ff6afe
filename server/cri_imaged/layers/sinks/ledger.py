"""What one layer leaves to be done at its seal: whiteouts, opaques, implicit directories, links,
devices, late attributes.

Pure: what the directory holds is asked of the caller. Paths are canonical: relative, without
`.`, `..` or symlinks among their parents. Every step is linear in the layer's entries.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TypeAlias

from msgspec.structs import replace

from cri_imaged.errors import LimitExceededError
from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.layers.tar.paths import join
from cri_imaged.ports import Device, Late

_OVERHEAD = 32
"""Counted for each path besides its bytes."""


Reach: TypeAlias = Callable[[bytes], "tuple[bytes, Held]"]


class Held(enum.Enum):
    """What a layer's directory holds at some path."""

    DIRECTORY = "directory"
    OTHER = "other"


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
        self.has_notes = False
        """Whether there was ever a link, a device or a late attribute."""
        self._links: dict[bytes, dict[bytes, tuple[int, bytes | Device, Late | None]]] = {}
        self._late: dict[bytes, dict[bytes, tuple[int, Late]]] = {}
        self._late_spent = 0

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

    def link(
        self, parent: bytes, name: bytes, target: bytes | Device, late: Late | None = None
    ) -> None:
        """`name` in `parent` is a hardlink to `target`, which this layer does not hold; or a name
        of that device, which is still to be made. `late` is what a hardlink's entry says of it."""
        self._spend(_link_cost(parent, name, target, late))
        self._links.setdefault(parent, {})[name] = (self._next(), target, late)

    def late(self, late: Late, parent: bytes, name: bytes) -> bool:
        """Note xattrs of `name` in `parent`. False where there are too many already."""
        notes = self._late.setdefault(parent, {})
        if found := notes.pop(name, None):
            self._late_spent -= _cost(found[1])
        if self._late_spent + _cost(late) > self._limit:
            return False
        self._late_spent += _cost(late)
        notes[name] = (self._next(), late)
        return True

    def linked(self, parent: bytes, name: bytes) -> bytes | Device | None:
        """The target or the device, if that name is such a link."""
        found = self._links.get(parent, {}).get(name)
        return found[1] if found else None

    def replaced(self, parent: bytes, name: bytes) -> None:
        """Another entry takes the place of that name."""
        links = self._links.get(parent)
        if links and (link := links.pop(name, None)):
            self._spend(-_link_cost(parent, name, *link[1:]))
        notes = self._late.get(parent)
        if notes and (note := notes.pop(name, None)):
            self._late_spent -= _cost(note[1])

    def removed(self, directory: bytes) -> None:
        """`directory` of this layer was removed, with what was in it."""
        self.listed(directory)
        for name in [*self._links.get(directory, ()), *self._late.get(directory, ())]:
            self.replaced(directory, name)

    def missing(self, reach: Reach) -> list[bytes]:
        """Directories that opaques speak of and the layer does not hold: they are made, unless the
        layer hides them or has something else there. Whiteouts make nothing."""
        links = (join(parent, name) for parent, names in self._links.items() for name in names)
        hidden = (path for path in sorted(self._whiteouts) if _absent(path, reach))
        gone = _outermost((*hidden, *links))
        absent = [path for path in sorted(self._opaques.difference(gone)) if _absent(path, reach)]
        return list(_outside(absent, gone))

    def settle(self, reach: Reach) -> tuple[Sealable, int]:
        """Decide, now that the layer is complete. `reach` says how far its directory holds a path
        (links that are still to be made are known here). Also how many xattrs there is no room
        for."""
        noted = sorted(
            (
                (order, join(parent, name), target, late)
                for parent, names in self._links.items()
                for name, (order, target, late) in names.items()
            ),
            key=lambda link: link[0],
        )
        pending = {name for _, name, _, _ in noted}
        opaques = {path for path in sorted(self._opaques) if reach(path) == (path, Held.DIRECTORY)}
        replaced = set()
        hidden = []
        for path in sorted(self._whiteouts - pending):
            found, kind = reach(path)
            if kind is Held.DIRECTORY and found == path:
                replaced.add(path)
            elif kind is Held.DIRECTORY:
                hidden.append(path)
        tops = _outermost(opaques | replaced)
        late, left_out = self._settled_late()
        sealable = Sealable(
            whiteouts=tuple(_outside(_outermost(hidden), tops)),
            opaques=tuple(tops),
            implicit=tuple(path for path in _outside(self._implicit, tops) if path not in replaced),
            links=tuple((name, to) for _, name, to, _ in noted if isinstance(to, bytes)),
            devices=_devices((name, to) for _, name, to, _ in noted if isinstance(to, Device)),
            late=(*(late for *_, late in noted if late is not None), *late),
        )
        return sealable, left_out

    def _settled_late(self) -> tuple[tuple[Late, ...], int]:
        """In the archive's order, as long as there is room; and how many xattrs are left out."""
        notes = sorted(note for names in self._late.values() for note in names.values())
        room = self._limit - self._spent
        kept: list[Late] = []
        left_out = 0
        for _, late in notes:
            room -= _cost(late)
            if room >= 0:
                kept.append(late)
            else:
                left_out += len(late.xattrs)
        return tuple(kept), left_out

    def _next(self) -> int:
        self.has_notes = True
        self._order += 1
        return self._order

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


def _absent(path: bytes, reach: Reach) -> bool:
    """Whether the layer holds nothing at `path`, which it could."""
    found, kind = reach(path)
    return kind is Held.DIRECTORY and found != path


def _link_cost(parent: bytes, name: bytes, target: bytes | Device, late: Late | None) -> int:
    to = len(target) if isinstance(target, bytes) else 0
    return len(parent) + len(name) + to + 2 * _OVERHEAD + (_cost(late) if late else 0)


def _devices(noted: Iterable[tuple[bytes, Device]]) -> tuple[Device, ...]:
    """Each device with its names. Two alike are still two nodes."""
    names: dict[int, tuple[Device, list[bytes]]] = {}
    for name, device in noted:
        names.setdefault(id(device), (device, []))[1].append(name)
    return tuple(replace(device, names=tuple(found)) for device, found in names.values())


def _cost(late: Late) -> int:
    xattrs = sum(len(name) + len(value) + _OVERHEAD for name, value in late.xattrs)
    return len(late.path) + xattrs + 2 * _OVERHEAD


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
