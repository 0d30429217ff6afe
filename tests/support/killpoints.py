"""Harm the daemon between two durable effects, without a hook in it.

    python -m tests.support.killpoints ORDER -- serve --config FILE

runs `cri-imaged serve` with the functions of `POINTS` wrapped. Around each call of one the file
ORDER is read; while it names the point, calls are counted, and at the n-th the process kills
itself with SIGKILL, or fills the disk and goes on. So one running daemon can be told at any moment
where it shall die.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Action = Literal["kill", "fill", "exhaust"]
When = Literal["before", "after"]

ANY = "any"
"""In an order: every point counts."""


@dataclass(frozen=True)
class Point:
    """A moment in the daemon's life: just before or after calls of one function."""

    name: str
    target: str
    """`module:function` or `module:Class.method`, within `cri_imaged`, or of `os`."""
    when: When
    during: Literal["pull", "view", "remove", "gc", "start", "failing pull"]
    """What a daemon must be doing to come by."""
    calls: int = 1
    """How often it comes by then, at the least."""
    snapshotter: str = ""
    """The one that has it; empty: each."""


def _points() -> Iterator[Point]:
    content, snapshots = "content.store:FileContentStore", "snapshots.snapshotter:StoredSnapshotter"
    yield from (
        Point(name, target, when, "pull", calls)
        for name, target, when, calls in (
            ("a lease is written but not committed", "metadata.leases:insert", "after", 3),
            ("a document is about to be published", f"{content}._publish", "before", 2),
            ("a blob's row is about to be written", "metadata.blobs:insert", "before", 4),
            ("a blob's row is written", "metadata.blobs:insert", "after", 4),
            ("a blob's file is renamed but not committed", "os:rename", "after", 4),
            ("a document is published", f"{content}.put", "after", 1),
            ("a snapshot is held", "metadata.snapshots:hold", "after", 1),
            ("an ingest is opened", "content.ingest:FileIngest.resume", "before", 2),
            ("a chunk is written", "content.ingest:FileIngest.write", "after", 3),
            ("a blob has arrived whole", "content.ingest:FileIngest.commit", "before", 2),
            ("a layer's blob is published", "content.ingest:FileIngest.commit", "after", 2),
            ("a snapshot's row is written", "metadata.snapshots:insert_active", "after", 2),
            ("a snapshot is prepared", f"{snapshots}.prepare", "after", 2),
            ("a worker is forked", "layers.worker.handle:Zygote.fork", "after", 2),
            ("a worker is told of more bytes", "layers.worker.handle:Worker.tell", "after", 3),
            ("a layer is applied", "layers.worker.pool:WorkerPool.apply", "after", 2),
            ("a snapshot is named but not committed", "metadata.snapshots:commit", "after", 2),
            ("a snapshot is committed", f"{snapshots}.commit", "after", 2),
            ("an image is about to be saved", "metadata.images:save", "before", 1),
            ("an image is saved but not committed", "metadata.images:save", "after", 1),
            ("an image is committed", "images.publishing:Publisher.update", "before", 1),
            (
                "a blob's flight has landed",
                "images.transfers.fetch:BlobFlight.release",
                "before",
                2,
            ),
            (
                "a layer's flight is released",
                "images.transfers.unpack:LayerFlight.release",
                "after",
                2,
            ),
            ("a lease is ended but not committed", "metadata.leases:end", "after", 5),
            ("a pull is done", "images.health.durability:Durability.pulled", "before", 1),
            (
                "a file system is about to be synced",
                "libc:syncfs",
                "before",
                1,
            ),
            ("a file system is synced", "libc:syncfs", "after", 1),
            ("rows are marked durable", "metadata.durability:mark", "after", 1),
            ("a transaction is about to begin", "metadata.database:_transact", "before", 30),
            ("a transaction is committed", "metadata.database:_transact", "after", 30),
        )
    )
    for name in ("overlay", "native", "erofs"):
        target = f"snapshots.{name}:{name.capitalize()}Backend.seal"
        yield Point(f"a layer is sealed ({name})", target, "after", "pull", 2, snapshotter=name)
    yield from (
        Point(name, target, "after", "pull", 2, snapshotter="erofs")
        for name, target in (
            ("an image has left its directory", "snapshots.erofs:remove_tree"),
            ("a layer's digest is written", "metadata.layer_digests:keep"),
        )
    )
    yield from (
        Point(name, target, when, "view", calls)
        for name, target, when, calls in (
            ("a view's row is written", "metadata.views:open_view", "after", 1),
            ("a view is opened", "snapshots.views:Views._make", "after", 1),
            ("a view's row is deleted", "metadata.views:delete", "after", 1),
            ("a view is removed", "snapshots.views:Views.remove", "after", 1),
        )
    )
    yield from (
        Point(name, target, when, "remove", calls)
        for name, target, when, calls in (
            ("an image's rows are deleted", "metadata.images:remove", "after", 1),
            ("a removal is committed", f"{content}.reclaim", "before", 1),
            ("something is renamed into the trash", "trash:Trash.put", "after", 4),
            ("the blobs are in the trash", f"{content}.reclaim", "after", 1),
            ("the snapshots are in the trash", f"{snapshots}.reclaim", "after", 1),
            ("the trash is half empty", "trash:_Removal._unlink", "after", 3),
            ("an image is hidden", "images.store:ImageStore.refresh", "after", 1),
        )
    )
    yield from (
        Point(name, target, when, "gc", calls)
        for name, target, when, calls in (
            ("leases have expired", "metadata.leases:expire", "after", 1),
            ("a sweep is not committed", "metadata.garbage:sweep", "after", 1),
            ("a sweep is committed", f"{content}.drop_ingests", "before", 1),
            ("ingests are dropped", f"{content}.drop_ingests", "after", 1),
        )
    )
    yield from (
        Point(name, target, when, "start", calls)
        for name, target, when, calls in (
            ("leases are inherited", "metadata.leases:inherit", "after", 1),
            ("content is about to be reaped", f"{content}.reap", "before", 1),
            ("content is reaped", f"{content}.reap", "after", 1),
            ("unfinished rows are deleted", "metadata.snapshots:delete_all_active", "after", 1),
            ("snapshots are reaped", f"{snapshots}.reap", "after", 1),
            ("the epoch is written", "metadata.durability:set_epoch", "after", 1),
        )
    )
    yield Point(
        "an unfinished snapshot is dropped",
        "metadata.snapshots:delete_active",
        "before",
        "failing pull",
    )


POINTS: dict[str, Point] = {point.name: point for point in _points()}


@dataclass(frozen=True)
class Order:
    """What shall happen at the n-th call of a point."""

    point: str
    """A name of `POINTS`, or `ANY`."""
    nth: int = 1
    action: Action = "kill"
    path: str = ""
    """The file that fills the disk; for `exhaust`, a directory for empty files."""

    def give(self, to: Path) -> None:
        """Let the daemon that reads `to` find this order, whole or not at all."""
        written = to.with_suffix(".new")
        written.write_text(json.dumps(asdict(self)))
        written.rename(to)


class _Watch:
    """Reads orders and counts calls."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._count = 0

    def passed(self, point: Point) -> None:
        """`point` is passed now."""
        with self._lock:
            order = self._read()
            if order is None or order.point not in (ANY, point.name):
                return
            self._count += 1
            if self._count != order.nth:
                return
            self._file.unlink()
            if order.action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif order.action == "fill":
                fill(Path(order.path))
            else:
                exhaust_inodes(Path(order.path))

    def _read(self) -> Order | None:
        try:
            order = Order(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            order = None
        if order != self._order:
            self._order, self._count = order, 0
        return order


def fill(path: Path) -> None:
    """Let `path` take all space of its file system that there is."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for step in (1 << 20, 1 << 14, 1 << 10, 1):
            with _until_full():
                while True:
                    os.write(fd, bytes(step))
                    os.fsync(fd)
    finally:
        os.close(fd)


def exhaust_inodes(directory: Path) -> None:
    """Put empty files into `directory` until its file system has no inode left."""
    directory.mkdir(exist_ok=True)
    with _until_full():
        number = 0
        while True:
            (directory / str(number)).touch(exist_ok=False)
            number += 1


@contextlib.contextmanager
def _until_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _wrap(function: Callable[..., Any], points: list[Point], watch: _Watch) -> Callable[..., Any]:
    def pass_by(when: When) -> None:
        for point in points:
            if point.when == when:
                watch.passed(point)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*arguments: Any, **options: Any) -> Any:
            pass_by("before")
            result = await function(*arguments, **options)
            pass_by("after")
            return result

        return waiting

    @functools.wraps(function)
    def calling(*arguments: Any, **options: Any) -> Any:
        pass_by("before")
        result = function(*arguments, **options)
        pass_by("after")
        return result

    return calling


def install(file: Path) -> None:
    """Wrap the functions of all points. A point whose function is gone raises."""
    watch = _Watch(file)
    for target in dict.fromkeys(point.target for point in POINTS.values()):
        module, _, path = target.partition(":")
        owner: Any = importlib.import_module("os" if module == "os" else f"cri_imaged.{module}")
        *classes, name = path.split(".")
        for each in classes:
            owner = getattr(owner, each)
        points = [point for point in POINTS.values() if point.target == target]
        setattr(owner, name, _wrap(owner.__dict__[name], points, watch))


def main() -> None:
    """See the module."""
    order, separator, *arguments = sys.argv[1:]
    if separator != "--":
        sys.exit(__doc__)
    os.setsid()  # what is left of the daemon after its death is found by its session
    install(Path(order))
    from cri_imaged.cli.main import main as cri_imaged

    sys.argv = ["cri-imaged", *arguments]
    cri_imaged()


if __name__ == "__main__":
    main()
