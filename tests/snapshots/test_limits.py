"""Trees that are too deep, too linked, too large or too many for the simple way."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.oci.digest import Digest
from cri_imaged.snapshots import erofs, overlay
from tests.snapshots.conftest import require_snapshotter
from tests.snapshots.model import Layer, Node, differences, scan
from tests.snapshots.workbench import Bench, applied, model, shown
from tests.support.erofs import WHOLE, fsck

TOP, BELOW = Digest.of(b"top"), Digest.of(b"below")
DEPTH = 2000
"""Levels that fit into an archive's longest path."""


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """At most `more` descriptors above those that are open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def chain(directory: Path, *names: str) -> None:
    """A chain of directories `d/d/d…`, with files of these names in the lowest."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def deepest(directory: Path) -> tuple[int, list[str]]:
    """How deep the chain is, and what is at its end."""
    fd, depth = os.open(directory, os.O_RDONLY), 0
    try:
        while "d" in (names := os.listdir(fd)):
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd, depth = below, depth + 1
        return depth, sorted(names)
    finally:
        os.close(fd)


def make_sparse(path: Path) -> None:
    """A TiB of holes around a few bytes."""
    with open(path, "wb") as file:
        file.write(b"start")
        file.seek(1 << 40)
        file.write(b"end")
        file.truncate((1 << 40) + (1 << 30))


def check_sparse(path: Path, *, counted: bool = True) -> None:
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        assert info.st_size == (1 << 40) + (1 << 30)
        assert not counted or info.st_blocks * 512 < 1 << 20
        assert file.read(8) == b"start\0\0\0"
        file.seek(1 << 40)
        assert file.read(8) == b"end\0\0\0\0\0"


@pytest.mark.parametrize("below_too", [True, False], ids=["over a chain", "on its own"])
async def test_deep_trees_need_few_descriptors(bench_in_memory: Bench, below_too: bool) -> None:
    bench = bench_in_memory
    low = await bench.prepare("below")
    chain(low, "gone", "target") if below_too else (low / "target").touch()
    end = b"/".join([b"d"] * DEPTH)
    high = await bench.prepare("top", BELOW)
    chain(high, "own")
    result = applied(
        implicit=tuple(b"/".join([b"d"] * level) for level in range(0, DEPTH + 1, 100)),
        whiteouts=(end + b"/gone",),
        links=((end + b"/link", end + b"/target" if below_too else b"target"),),
    )
    with few_descriptors(600):
        await bench.commit(BELOW, "below", None, applied())
        await bench.commit(TOP, "top", BELOW, result)
        wanted = ["link", "own", "target"] if below_too else ["link", "own"]
        for writable in (False, True):
            mounts = await bench.snapshotter.view(f"view-{writable}", TOP, writable=writable)
            with shown(mounts) as directory:
                assert deepest(directory) == (DEPTH, wanted)


async def test_many_layers_need_few_descriptors(bench_in_memory: Bench) -> None:
    bench = bench_in_memory
    stack = [
        Layer({b"a/b/c/%d" % number: Node("file"), b"a/x": Node("file", mode=0o600 + number % 8)})
        for number in range(200)
    ]
    stack.append(Layer(whiteouts=(b"a/b/c/7", b"a/x"), links=((b"a/l", b"a/b/c/8"),)))
    with few_descriptors(560):
        top = await bench.stack(stack)
    assert differences(await bench.tree(top), model(stack)) == []


async def test_directories_in_too_many_layers(tmp_path: Path) -> None:
    """To see what is below a directory it is opened in each layer that has it."""
    require_snapshotter("overlay")
    layer = Layer({b"%d/a" % number: Node("file") for number in range(10)})
    async with Bench.open(tmp_path, "overlay", Limits(seal_directories=60)) as bench:
        top = await bench.stack([layer] * 6)
        with pytest.raises(LimitExceededError, match="seal_directories"):
            await bench.stack([layer] * 8)
        assert differences(await bench.tree(top), model([layer])) == []


async def test_an_image_of_more_names_than_its_layer_could_give_it_is_not_shown(
    tmp_path: Path,
) -> None:
    """Entries give it names, and so do directories that no entry lists: of those the bytes that a
    layer may leave to its seal are the limit."""
    require_snapshotter("erofs")
    limits = Limits(layer_entries=2, seal_bytes=3 * 32)
    async with Bench.open(tmp_path, "erofs", limits) as bench:
        layer = Layer({b"d/d/d/%d" % number: Node("file") for number in range(2)})
        await bench.add(layer)
        more = Layer({**layer.entries, b"d/e": Node("file")})
        with pytest.raises(CorruptContentError, match="more names"):
            await bench.add(more)


async def test_more_files_than_a_layer_may_have_are_not_merged_into_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_snapshotter("erofs")
    monkeypatch.setattr(erofs, "MAX_LAYERS", 2)
    layers = [
        Layer({b"%d%d" % (number, each): Node("file") for each in range(4)}) for number in range(3)
    ]
    for most, refused in ((12, False), (11, True)):
        root = tmp_path / f"{most}"
        root.mkdir()
        async with Bench.open(root, "erofs", Limits(layer_entries=most)) as bench:
            if refused:
                with pytest.raises(LimitExceededError, match="layer_entries"):
                    await bench.stack(layers)
            else:
                await bench.stack(layers)


@pytest.mark.parametrize("name", ["overlay", *(["erofs"] if WHOLE else [])])
async def test_more_layers_than_the_kernel_merges(tmp_path: Path, name: str) -> None:
    require_snapshotter(name)
    async with Bench.open(tmp_path, name) as bench:
        top = None
        for number in range(500):
            await bench.prepare(f"{number}")
            parent, top = top, Digest.of(b"%d" % number)
            await bench.commit(top, f"{number}", parent, applied())
        with shown(await bench.snapshotter.view("view", top)) as directory:
            assert os.listdir(directory) == []
        layers = [Layer({b"file": Node("file", content=b"one more")}), Layer(whiteouts=(b"file",))]
        for layer, names in zip(layers, ([b"", b"file"], [b""]), strict=True):
            top = await bench.add(layer, top)
            assert sorted(await bench.tree(top)) == names


@pytest.mark.parametrize("name", ["overlay", "erofs"])
@pytest.mark.parametrize("most", [1, 2, 3])
async def test_layers_merged_into_one_show_what_they_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, name: str
) -> None:
    require_snapshotter(name)
    monkeypatch.setattr(overlay if name == "overlay" else erofs, "MAX_LAYERS", most)
    stack = [
        Layer(
            {
                b"gone/old": Node("file"),
                b"opaque/old": Node("file"),
                b"was a file/old": Node("file"),
                b"hidden": Node("file"),
                b"stays/a/b": Node("file", mode=0o604, content=b"b"),
                b"dir": Node("directory", 0o711, mtime=5),
                b"same": Node("file", file=1),
            },
            hardlinks={b"stays/same": b"same"},
        ),
        Layer(
            {b"opaque": Node("directory", 0o750), b"was a file": Node("file")},
            whiteouts=(b"gone", b"hidden", b"nothing/here", b"stays/nothing"),
            opaques=(b"opaque",),
        ),
        Layer(
            {b"gone/new": Node("file"), b"opaque/new": Node("file"), b"dir/new": Node("file")},
            links=((b"linked", b"stays/a/b"),),
        ),
        Layer({b"was a file/new": Node("file"), b"hidden/d": Node("file")}, whiteouts=(b"same",)),
        Layer({b"gone/new": Node("directory"), b"stays/a": Node("symlink", content=b"x")}),
        Layer({b"top": Node("file")}),
    ]
    async with Bench.open(tmp_path, name) as bench:
        for height in range(1, len(stack) + 1):
            part = stack[:height]
            top = await bench.stack(part)
            (mount,) = await bench.snapshotter.view(f"view-{height}", top)
            assert sum(option.count(":") for option in mount.options) < most
            assert differences(await bench.tree(top), model(part)) == []
            if name == "erofs":
                assert fsck(await bench.snapshotter.path(top)) == ""


async def test_holes_stay_holes(bench: Bench) -> None:
    make_sparse(await bench.prepare("below") / "sparse")
    await bench.commit(BELOW, "below", None, applied())
    await bench.prepare("top", BELOW)
    await bench.commit(TOP, "top", BELOW, applied(links=((b"copy", b"sparse"),)))
    with shown(await bench.snapshotter.view("view", TOP, writable=True)) as directory:
        for name in ("sparse", "copy"):
            # The kernel counts the holes of an image, too.
            check_sparse(directory / name, counted=bench.snapshotter.name != "erofs")


async def test_a_file_with_as_many_names_as_can_be(bench: Bench) -> None:
    """ext4 gives a file 65,000 names; a snapshot must not need one more."""
    low = await bench.prepare("below")
    (low / "file").write_text("content")
    (low / "names").mkdir()
    with contextlib.suppress(OSError):
        for number in range(70_000):
            os.link(low / "file", low / f"names/{number}")
    await bench.commit(BELOW, "below", None, applied())
    await bench.prepare("top", BELOW)
    links = tuple((b"link-%d" % number, b"file") for number in range(3))
    await bench.commit(
        TOP, "top", BELOW, applied(links=links, whiteouts=(b"names",), implicit=(b"",))
    )
    tree = await bench.tree(TOP)
    assert sorted(tree) == [b"", b"file", b"link-0", b"link-1", b"link-2"]
    assert {tree[name].content for name in tree if name} == {b"content"}
    assert len({tree[name].file for name, _ in links}) == 1


async def test_a_writable_copy_keeps_what_is_one_file(bench: Bench) -> None:
    stack = [
        Layer(
            {b"a/1": Node("file", file=1), b"s": Node("symlink", content=b"x", file=2)},
            hardlinks={b"2": b"a/1", b"b/3": b"a/1", b"t": b"s"},
        ),
        Layer({b"a/4": Node("file")}, whiteouts=(b"2",)),
    ]
    top = await bench.stack(stack)
    with shown(await bench.snapshotter.view("view", top, writable=True)) as directory:
        assert differences(scan(directory), model(stack)) == []
