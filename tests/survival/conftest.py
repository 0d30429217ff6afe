"""Stores to be harmed, and how much of it a run does.

Environment: SURVIVAL_ROUNDS (each kill point so often with each snapshotter; 0, the default: a
seeded part of them once), SURVIVAL_CUTS (power cuts), SURVIVAL_SECONDS (of crowds), SURVIVAL_SEED.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mounts import let_go
from tests.support.require import require_real
from tests.survival.victim import Source, serving

SEED = int(os.environ.get("SURVIVAL_SEED", "1"))
ROUNDS = int(os.environ.get("SURVIVAL_ROUNDS", "0"))
CUTS = int(os.environ.get("SURVIVAL_CUTS", "4"))
SECONDS = float(os.environ.get("SURVIVAL_SECONDS", "30"))

Scratch = Callable[[str], Path]


def chance(*of: object) -> random.Random:
    """Randomness that depends on the seed and on what it is for."""
    return random.Random(repr((SEED, *of)))


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    """Makes empty directories with short paths (a socket's has 107 bytes at most)."""
    require_real(os.geteuid() == 0, "only root can mount and chroot")
    with ExitStack() as stack:

        def make(name: str) -> Path:
            path = Path(tempfile.mkdtemp(prefix=f"cri-{name}-"))
            stack.callback(shutil.rmtree, path)
            stack.callback(let_go, path)
            return path

        yield make


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    """A registry for the module."""
    with serving() as running:
        yield running
