"""Reads the files that configure hosts in threads of its own: a disk of the store that stands
still holds none of it up, and a disk of theirs no lookup of a name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from cri_imaged.threads import Threads

T = TypeVar("T")

_AT_A_TIME = 4
_threads = Threads(_AT_A_TIME, "registry-files")


def reading(work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of `work`, run in a thread. It runs to its end where the caller is cancelled."""
    return _threads.run(work)
