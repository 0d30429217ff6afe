"""Shows progress: bars on a terminal, elsewhere a line for each step of a pull."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cri_imaged.cli.output import counted, enum_name, note, size
from cri_imaged.obs.terminal import escaped
from cri_imaged.rpc.node.v1 import node_pb2

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LAYER_BARS = 6
"""Layers shown at the same time; more would scroll a small terminal."""
_BUSY = {node_pb2.LAYER_PHASE_FETCHING, node_pb2.LAYER_PHASE_UNPACKING}


class Display(Protocol):
    """Shows what a `WatchPulls` answer says."""

    def show(self, pulls: Sequence[node_pb2.Pull]) -> None:
        """Show the state of these pulls now."""
        ...


@contextmanager
def display() -> Iterator[Display]:
    """Bars where standard error is a terminal, else lines."""
    with _bars() as progress:
        yield Bars(progress) if progress else Lines()


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """One bar where standard error is a terminal, else nothing; moved by a call with what is
    looked at, bytes done, bytes in all."""
    with _bars() as progress:
        if progress is None:
            yield lambda label, done, total: None
            return
        task = progress.add_task("", total=None)

        def move(label: str, done: int, total: int) -> None:
            progress.update(task, description=escaped(label), completed=done, total=total or None)

        yield move


@contextmanager
def _bars() -> Iterator[Progress | None]:
    """Space for bars on standard error, None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    # Slow to import, and only for people at a terminal.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        yield progress


class Lines:
    """A line on standard error whenever a pull reaches another phase."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def show(self, pulls: Sequence[node_pb2.Pull]) -> None:
        """Print what is new."""
        for pull in pulls:
            line = describe(pull)
            if self._shown.get(pull.id) != line:
                self._shown[pull.id] = line
                note(line)


class Bars:
    """A bar for each pull, and one for each of its layers that is at work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def show(self, pulls: Sequence[node_pb2.Pull]) -> None:
        """Move the bars."""
        shown: set[tuple[str, str]] = set()
        for pull in pulls:
            key = (pull.id, "")
            self._update(key, describe(pull), pull.bytes_fetched, pull.bytes_total)
            shown.add(key)
            for layer in busy_layers(pull):
                key = (pull.id, layer.digest)
                phase = enum_name(node_pb2.LayerPhase.DESCRIPTOR, layer.phase)
                label = f"  {layer.digest.partition(':')[2][:12]} {phase}"
                self._update(key, label, layer.fetched, layer.size)
                shown.add(key)
        for key in self._tasks.keys() - shown:
            self._progress.remove_task(self._tasks.pop(key))

    def _update(self, key: tuple[str, str], label: str, done: int, total: int) -> None:
        label = escaped(label)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(label, total=None)
        self._progress.update(
            self._tasks[key], description=label, completed=done, total=total or None
        )


def busy_layers(pull: node_pb2.Pull) -> list[node_pb2.Layer]:
    """The layers that are at work now, from the bottom up, as many as are shown."""
    return [layer for layer in pull.layers if layer.phase in _BUSY][:LAYER_BARS]


def describe(pull: node_pb2.Pull) -> str:
    """One line on where a pull is, without numbers that change all the time."""
    phase = enum_name(node_pb2.PullPhase.DESCRIPTOR, pull.phase)
    if not pull.layers:
        return f"{pull.reference}: {phase}"
    layers = counted(len(pull.layers), "layer")
    return f"{pull.reference}: {phase}, {layers}, {size(pull.bytes_total)}"
