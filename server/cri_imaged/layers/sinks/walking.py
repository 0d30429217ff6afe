"""Paths of an archive, followed inside a layer's root: symlinks resolved, missing parents made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.layers.sinks.ledger import Held, Ledger
from cri_imaged.layers.tar import paths
from cri_imaged.layers.tar.entry import shown
from cri_imaged.limits import Limits
from cri_imaged.ports import Usage


class AnyDirectory(Protocol):
    """A directory of some kind of tree."""

    @property
    def path(self) -> bytes:
        """Canonical."""
        ...


D = TypeVar("D", bound=AnyDirectory)


class Walker(ABC, Generic[D]):
    """A tree that paths are followed in."""

    root: D

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger = ledger
        self._limits = limits

    @abstractmethod
    def parent(self, raw: bytes) -> D:
        """The directory that an archive's path names, symlinks followed inside the root, and
        made where it is missing. Valid until the next call of any method.

        Raises:
            CorruptContentError: a symlink that cannot be followed.
            LimitExceededError: too many symlinks or steps.
        """

    @abstractmethod
    def make_directory(self, parent: D, name: bytes) -> D:
        """The directory `name`, made unless it is there; whatever else was there is removed."""

    @abstractmethod
    def remove(self, parent: D, name: bytes) -> None:
        """Remove `name` and all that is in it. It may be missing."""

    @abstractmethod
    def usage(self) -> Usage:
        """What the tree takes by now."""

    @abstractmethod
    def close(self) -> None:
        """The tree is complete."""

    @abstractmethod
    def _nearest(self, components: list[bytes]) -> tuple[D, list[bytes]]:
        """A directory on the way that is at hand, and the components behind it."""

    @abstractmethod
    def _child(self, parent: D, name: bytes) -> D | None:
        """An existing directory, or None where `name` is none."""

    @abstractmethod
    def _has(self, parent: D, name: bytes) -> bool:
        """Whether anything is at `name`."""

    @abstractmethod
    def _read_link(self, parent: D, name: bytes) -> bytes | None:
        """The target of a symlink; None for anything else."""

    def target(self, raw: bytes) -> tuple[D | None, bytes, bytes]:
        """Where a hardlink's target is: its directory (None where this layer has none), its last
        component, and its canonical path. Makes nothing; raises as `parent` does."""
        components = paths.parts(raw)
        if not components:
            raise CorruptContentError("hardlink to the root directory")
        base = components.pop()
        directory, rest = self._walk(components, make=False)
        if rest:
            return None, base, paths.join(directory.path, b"/".join([*rest, base]))
        return directory, base, paths.join(directory.path, base)

    def path_of(self, raw: bytes) -> bytes:
        """The canonical path of a directory that an archive's path names. Makes nothing; raises as
        `parent` does."""
        directory, rest = self._walk(paths.parts(raw), make=False)
        return paths.join(directory.path, b"/".join(rest)) if rest else directory.path

    def reach(self, path: bytes) -> tuple[bytes, Held]:
        """How far the layer holds a canonical path, no symlinks followed: the last part that is
        there, and what that is."""
        directory, rest = self._nearest(path.split(b"/") if path else [])
        for name in rest:
            child = self._child(directory, name)
            if child is None:
                if self._has(directory, name):
                    return paths.join(directory.path, name), Held.OTHER
                break
            directory = child
        return directory.path, Held.DIRECTORY

    def find(self, path: bytes) -> D | None:
        """The directory at a canonical path, if it is one."""
        directory, rest = self._nearest(path.split(b"/") if path else [])
        for name in rest:
            child = self._child(directory, name)
            if child is None:
                return None
            directory = child
        return directory

    def _walk(self, components: list[bytes], *, make: bool) -> tuple[D, list[bytes]]:
        """Follow `components`: the directory reached, and what is missing behind it."""
        directory, rest = self._nearest(components)
        pending = rest[::-1]
        missing: list[bytes] = []
        links = steps = 0
        while pending:
            steps += 1
            if steps > self._limits.path_bytes or len(directory.path) > self._limits.path_bytes:
                raise LimitExceededError(
                    f"a path of more than {self._limits.path_bytes} steps or bytes, those through "
                    "symlinks counted (path_bytes)"
                )
            name = pending.pop()
            if missing:
                if name == b"..":
                    missing.pop()
                else:
                    missing.append(name)
                continue
            if name == b"..":
                up = self.find(directory.path.rpartition(b"/")[0])
                if up is None:
                    raise CorruptContentError("a directory vanished while its path was resolved")
                directory = up
                continue
            child = self._child(directory, name)
            if child is not None:
                directory = child
                continue
            link = self._read_link(directory, name)
            if link is None:
                if make:
                    directory = self._make_implicit(directory, name)
                else:
                    missing.append(name)
                continue
            links += 1
            if links > self._limits.symlinks_followed:
                raise LimitExceededError(
                    f"more than {self._limits.symlinks_followed} symlinks to follow "
                    f"(symlinks_followed), the last at {shown(paths.join(directory.path, name))}"
                )
            if link.startswith(b"/"):
                directory = self.root
            pending += [part for part in link.split(b"/")[::-1] if part not in (b"", b".")]
        return directory, missing

    def _make_implicit(self, parent: D, name: bytes) -> D:
        if name.startswith(paths.PREFIX):
            raise CorruptContentError("a directory named like a whiteout")
        self._ledger.implicit(paths.join(parent.path, name))
        return self.make_directory(parent, name)
