"""Follow symbolic links inside a merged tree, as a root of its own."""

from __future__ import annotations

import os
import stat
from collections import deque

from cri_imaged.errors import LimitExceededError
from cri_imaged.snapshots.paths import components, show
from cri_imaged.snapshots.stack import Stack

_LOOK_UPS = 1 << 17
"""For all directories of one layer together: about a second, and a hundred times what layers need
that are not made to hurt."""


class Resolver:
    """Resolves directories through links, each directory once."""

    def __init__(self, tree: Stack, symlinks: int) -> None:
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
            if not stat.S_ISLNK(found.info.st_mode):
                resolved.append(part)
                continue
            symlinks -= 1
            if symlinks < 0 or self._left < 0:
                raise LimitExceededError(f"{show(directory)} leads through too many symbolic links")
            target = os.readlink(found.name, dir_fd=found.directory)
            if target.startswith(b"/"):
                resolved.clear()
            pending.extendleft(reversed(target.split(b"/")))
        return b"/".join(resolved)
