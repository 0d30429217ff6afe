"""Follow symbolic links inside a merged tree, as a root of its own."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from cri_imaged.errors import LimitExceededError
from cri_imaged.oci.layer_path import components, show
from cri_imaged.snapshots.paths import split

_LOOK_UPS = 1 << 17
"""For all directories of one layer together: about a second, and a hundred times what layers need
that are not made to hurt."""


class Linking(Protocol):
    """Something in a tree."""

    def link(self) -> bytes | None:
        """Its target, where it is a symbolic link."""
        ...


class LinkTree(Protocol):
    """A merged tree."""

    def find(self, path: bytes) -> Linking | None:
        """What is visible at `path`, not the root, which is reached through directories only."""
        ...


class LinkResolver:
    """Resolves directories through links, each directory once."""

    def __init__(self, tree: LinkTree, symlinks: int) -> None:
        """At most `symlinks` links may lead to one directory."""
        self._tree = tree
        self._symlinks = symlinks
        self._left = _LOOK_UPS
        self._known: dict[bytes, bytes | None] = {}

    def resolve(self, directory: bytes) -> bytes | None:
        """`directory` without links; None where a part of it is missing.

        Raises:
            LimitExceededError: more links, or more directories on the way, than allowed.
        """
        if directory not in self._known:
            self._known[directory] = self._resolve(directory)
        return self._known[directory]

    def target(self, path: bytes) -> bytes | None:
        """`path`, the links among its parents followed; None where they lead nowhere."""
        parent, name = split(path)
        above = self.resolve(parent)
        if above is None:
            return None
        return above + b"/" + name if above else name

    def _resolve(self, directory: bytes) -> bytes | None:
        pending = deque(components(directory))
        resolved: list[bytes] = []
        symlinks = self._symlinks
        while pending:
            part = pending.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del resolved[-1:]
                continue
            self._left -= 1
            found = self._tree.find(b"/".join((*resolved, part)))
            if found is None:
                return None
            target = found.link()
            if target is None:
                resolved.append(part)
                continue
            symlinks -= 1
            if symlinks < 0 or self._left < 0:
                raise LimitExceededError(f"{show(directory)} leads through too many symbolic links")
            if target.startswith(b"/"):
                resolved.clear()
            pending.extendleft(reversed(target.split(b"/")))
        return b"/".join(resolved)
