"""Which of our layers the containers of podman and the like stand on: nobody tells us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cri_imaged.runtimes.containers_storage.files import locked, read_list


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
        InUseError: one begins just now.
    """
    containers, layers = graph_root / "overlay-containers", graph_root / "overlay-layers"
    with ExitStack() as stack:
        for lock in (containers / "containers.lock", layers / "layers.lock"):
            if lock.exists():
                stack.enter_context(locked(lock, exclusive=False))
        # Those that are removed as they end (`podman run --rm`) have a list of their own.
        found = [
            each
            for name in ("containers", "volatile-containers")
            for each in read_list(containers, name)
        ]
        links: set[str] = set()
        for lower in graph_root.glob("overlay/*/lower"):
            links.update(part.rpartition("/")[2] for part in lower.read_text().split(":"))
        yield Users(
            images=frozenset(str(each["image"]) for each in found if "image" in each),
            links=frozenset(links),
        )
