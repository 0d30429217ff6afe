"""Which of our layers the containers of podman and the like stand on: nobody tells us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cri_imaged.errors import InUseError
from cri_imaged.runtimes.containers_storage.files import locked

_LISTS = ("containers.json", "volatile-containers.json")
"""Volatile are those of `podman run --rm`, and all of CRI-O's: they need not survive a reboot."""


@dataclass(frozen=True, slots=True)
class Users:
    """What is in use."""

    images: frozenset[str]
    """IDs in hexadecimal."""
    links: frozenset[str]
    """Short names of layers."""


@contextmanager
def in_use(graph_root: Path) -> Iterator[Users]:
    """What the containers in `graph_root` use. While this lasts no container begins.

    Raises:
        InUseError: one begins just now, or who uses what is not known.
    """
    containers, layers = graph_root / "overlay-containers", graph_root / "overlay-layers"
    with ExitStack() as stack:
        for lock in (containers / "containers.lock", layers / "layers.lock"):
            if lock.exists():
                stack.enter_context(locked(lock, exclusive=False))
        images = frozenset().union(*(_images(containers / name) for name in _LISTS))
        links: set[str] = set()
        for lower in graph_root.glob("overlay/*/lower"):
            links.update(part.rpartition("/")[2] for part in lower.read_text().split(":"))
        yield Users(images, frozenset(links))


def _images(path: Path) -> frozenset[str]:
    try:
        listed = json.loads(path.read_bytes() or b"[]")
        return frozenset(str(each["image"]) for each in listed if "image" in each)
    except FileNotFoundError:
        return frozenset()
    except (ValueError, TypeError) as error:
        raise InUseError(f"{path} does not tell which images containers use: {error}") from None
