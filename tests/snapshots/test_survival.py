"""Crashes, cancellations and full disks leave whole snapshots or none."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.errors import NoSpaceError, NotFoundError
from cri_imaged.metadata.garbage import sweep
from cri_imaged.oci.digest import Digest
from cri_imaged.trash import remove_tree
from tests.snapshots.conftest import require_snapshotter
from tests.snapshots.model import Layer, Node, differences, scan, write
from tests.snapshots.workbench import CLASSES, Bench, applied, model, shown
from tests.support.require import require_real

TOP = Digest.of(b"top")


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def wide(number: int) -> Layer:
    """A layer with enough in it for a seal to be interrupted."""
    entries = {
        b"d%d/f%d" % (outer, inner): Node("file", content=b"%d" % number, file=object())
        for outer in range(20)
        for inner in range(number, 100, 3)
    }
    return Layer(entries, links=() if number == 0 else ((b"l", b"d1/f0"),))


@pytest.mark.parametrize("name", sorted(CLASSES))
async def test_what_a_crash_leaves(name: str, tmp_path: Path) -> None:
    require_snapshotter(name)
    stack = [Layer({b"a": Node("file")}), Layer({b"b": Node("file")})]
    async with Bench.open(tmp_path, name) as bench:
        top = await bench.stack(stack)
        whole = names(bench.directory)
        await bench.snapshotter.view("reading", top)
        written = await bench.snapshotter.view("writing", top, writable=True)
        with shown(written) as directory:
            (directory / "new").touch()
        await bench.snapshotter.view("lost", top, writable=True)
        await bench.prepare("unfinished", top)
        lost = bench.directory / next(iter(set(names(bench.directory)) - {*whole, "3", "v2"}))
        remove_tree(lost)
        for leftover in ("77", "v88", "v2.new", "something else"):
            (bench.directory / leftover / "fs").mkdir(parents=True)
    async with Bench.open(tmp_path, name) as bench:
        await bench.trash.drain()
        assert names(bench.directory) == sorted([*whole, "v2"])
        assert [view.key for view in await bench.snapshotter.views()] == ["reading", "writing"]
        assert differences(await bench.tree(top), model(stack)) == []
        assert await bench.snapshotter.view("writing", top, writable=True) == written
        with shown(written) as directory:
            assert (directory / "new").exists()
        await bench.prepare("unfinished", top)


async def test_what_is_under_way_is_no_orphan(bench: Bench) -> None:
    """Whoever looks for orphans removes them."""
    top = await bench.stack([wide(0), wide(1)])
    assert await bench.snapshotter.orphans() == []
    unfinished = await bench.prepare("unfinished", top)
    (stray := bench.directory / "77").mkdir()
    assert await bench.snapshotter.orphans() == [stray]
    stray.rmdir()
    view = asyncio.create_task(bench.snapshotter.view("writing", top, writable=True))
    while not view.done():
        assert await bench.snapshotter.orphans() == []
    assert unfinished.is_dir()
    await view


@pytest.mark.parametrize("name", sorted(CLASSES))
async def test_a_snapshot_that_somebody_removed(name: str, tmp_path: Path) -> None:
    require_snapshotter(name)
    stack = [Layer({b"a": Node("file")}), Layer({b"b": Node("file")})]
    async with Bench.open(tmp_path, name) as bench:
        low = await bench.add(stack[0])
        top = await bench.add(stack[1], low)
        remove_tree(bench.directory / "1")
    async with Bench.open(tmp_path, name) as bench:
        assert await bench.snapshotter.walk() == []
        with pytest.raises(NotFoundError):
            await bench.snapshotter.view("view", top)


async def test_a_removed_snapshot_is_found_when_it_is_used(bench: Bench) -> None:
    low = await bench.add(Layer({b"a": Node("file")}))
    other = await bench.add(Layer({b"o": Node("file")}))
    top = await bench.add(Layer({b"b": Node("file")}), low)
    directory = await bench.prepare("key", top)
    result = write(Layer({b"c": Node("file")}), directory)
    remove_tree(bench.directory / "1")
    if bench.snapshotter.name == "native":  # stands on its own
        remove_tree(bench.directory / "3")
    with pytest.raises(NotFoundError, match="pull the image again"):
        await bench.snapshotter.view("view", top)
    assert await bench.snapshotter.views() == []
    assert await bench.snapshotter.info(top) is None
    assert await bench.snapshotter.info(other) is not None
    with pytest.raises(NotFoundError):
        await bench.commit(TOP, "key", top, result)


@pytest.mark.parametrize("milliseconds", [0, 1, 3, 10, 30, 100])
async def test_a_cancelled_commit_is_whole_or_never_was(bench: Bench, milliseconds: int) -> None:
    stack = [wide(0), wide(1)]
    low = await bench.add(stack[0])
    directory = await bench.prepare("key", low)
    task = asyncio.create_task(bench.commit(TOP, "key", low, write(stack[1], directory)))
    await asyncio.sleep(milliseconds / 1000)
    task.cancel()
    await asyncio.wait([task])
    await bench.trash.drain()
    if await bench.snapshotter.info(TOP) is None:
        assert len(bench.left()) == 1
        directory = await bench.prepare("key", low)
        await bench.commit(TOP, "key", low, write(stack[1], directory))
    assert len(bench.left()) == 2
    assert differences(await bench.tree(TOP), model(stack)) == []


@pytest.mark.parametrize("ticks", [0, 1, 2, 4, 8, 16, 64, 256])
async def test_a_cancelled_prepare_or_view_leaves_nothing(bench: Bench, ticks: int) -> None:
    top = await bench.add(wide(0))
    begun = {
        "key": asyncio.ensure_future(bench.snapshotter.prepare("key", top, bench.lease)),
        "view": asyncio.ensure_future(bench.snapshotter.view("view", top)),
        "copy": asyncio.ensure_future(bench.snapshotter.view("copy", top, writable=True)),
    }
    for _ in range(ticks):
        await asyncio.sleep(0)
    for task in begun.values():
        task.cancel()
    await asyncio.wait(begun.values())
    for key, task in begun.items():
        if not task.cancelled():  # it was done before
            await bench.snapshotter.remove(key)
    await bench.trash.drain()
    assert len(bench.left()) == 1
    assert await bench.snapshotter.views() == []
    await bench.prepare("key")
    with shown(await bench.snapshotter.view("copy", top, writable=True)) as directory:
        assert differences(scan(directory), model([wide(0)])) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require_real(os.geteuid() == 0, "mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("name", sorted(CLASSES))
async def test_a_full_disk(name: str, small_disk: Path) -> None:
    big = Layer({b"big": Node("file", content=b"x" * (5 << 19)), b"small": Node("file")})
    async with Bench.open(small_disk, name) as bench:
        low = await bench.add(big)
        free = os.statvfs(small_disk).f_bavail
        await bench.prepare("key", low)
        with pytest.raises(NoSpaceError):
            await bench.commit(TOP, "key", low, applied(links=((b"l", b"big"),)))
        await bench.trash.drain()
        assert len(bench.left()) == 1
        if name == "native":
            with pytest.raises(NoSpaceError, match="view 'copy'"):
                await bench.snapshotter.view("copy", low, writable=True)
            await bench.trash.drain()
            assert await bench.snapshotter.views() == []
            assert len(bench.left()) == 1
        assert os.statvfs(small_disk).f_bavail > free - 64
        assert differences(await bench.tree(low), model([big])) == []
        await bench.prepare("key", low)
        await bench.commit(TOP, "key", low, applied(links=((b"l", b"small"),)))
        assert (await bench.tree(TOP)).keys() == {b"", b"big", b"small", b"l"}


async def test_garbage_is_gone_from_disk(bench: Bench) -> None:
    await bench.add(wide(0))
    await bench.database.write(lambda db: db.execute("DELETE FROM leases"))
    garbage = await bench.database.write(sweep)
    await bench.snapshotter.reclaim(garbage.snapshots[bench.snapshotter.name])
    await bench.trash.drain()
    assert bench.left() == []
    assert names(bench.root / "trash") == []
