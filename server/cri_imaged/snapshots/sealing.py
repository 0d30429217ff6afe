"""The seals under way. They write, too: they leave the disk's reserve free, and what they take is
their pulls'."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cri_imaged.errors import NoSpaceError
from cri_imaged.full_disk import leave_free
from cri_imaged.ports import Applied, Usage
from cri_imaged.snapshots.backend import Backend, Sealed
from cri_imaged.snapshots.seal import is_large
from cri_imaged.snapshots.tasks import Check, Growth, Threads

_STEP_SECONDS = 0.002
"""After which the disk is looked at again: it cannot have taken many bytes meanwhile."""
_STEP_INODES = 4
"""The same, of files made: on a machine that does little else they are many in that time."""
_LOOK_SECONDS = 0.01
_PATIENCE = 10.0
"""Seconds that a seal waits for room. Which pull has to end is decided where all are seen."""


class _Paced(Growth):
    """A `Check` for what is sealed in `place`: it waits while the disk has no room."""

    def __init__(self, check: Check, place: Path, reserve: int) -> None:
        """`reserve`: bytes of the disk that stay free."""
        super().__init__(check)
        self._reserve = reserve
        self._next = 0.0
        self._made = 0
        self._fd = os.open(place, os.O_PATH | os.O_CLOEXEC)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._fd)

    def grew(self, size: int, inodes: int) -> None:
        """See `Check.grew`."""
        super().grew(size, inodes)
        self._made += inodes
        if self._made >= _STEP_INODES:
            self._next, self._made = 0.0, 0

    def __call__(self, let_go: Callable[[], object] = lambda: None) -> None:
        """See `Check`.

        Raises:
            NoSpaceError: no room came in `_PATIENCE`.
        """
        super().__call__(let_go)
        until = 0.0
        while (now := time.monotonic()) >= self._next:
            try:
                leave_free(self._fd, self._reserve)
                self._next = now + _STEP_SECONDS
            except NoSpaceError:
                until = until or now + _PATIENCE
                if now > until:
                    raise
                let_go()
                time.sleep(_LOOK_SECONDS)
                super().__call__()


class Seals:
    """Seals layers of one kind, and knows what that has put on the disk by now."""

    def __init__(self, backend: Backend, threads: Threads, reserve: int) -> None:
        """`reserve`: bytes of the disk that stay free."""
        self._backend = backend
        self._threads = threads
        self._reserve = reserve
        self._running: dict[Path, tuple[Usage, _Paced]] = {}
        """What was applied, and what has come since; by layers."""

    def taken(self, layer: Path) -> Usage | None:
        """What is in a layer that is being sealed; None where it is not."""
        found = self._running.get(layer)
        return found[0] + found[1].usage if found else None

    async def run(self, place: Path, parents: Sequence[Path], applied: Applied) -> Sealed:
        """See `Backend.seal`. Raises `NoSpaceError`, too."""
        layer = self._backend.layer(place)

        def seal(check: Check) -> Sealed:
            with contextlib.closing(_Paced(check, place, self._reserve)) as paced:
                self._running[layer] = applied.usage, paced
                return self._backend.seal(place, parents, applied, paced)

        try:
            return await self._threads.run(f"snapshot {place.name}", seal, large=is_large(applied))
        finally:
            self._running.pop(layer, None)
