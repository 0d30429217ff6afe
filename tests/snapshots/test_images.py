"""Layers that are images: mounted once for all that stand on them, by loop devices too, sound after
each seal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri_imaged import mounting
from cri_imaged.erofs.format import SUPER, SUPER_SIZE
from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.metadata.garbage import sweep
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import IMAGE, Verdict
from cri_imaged.snapshots.erofs import write_empty
from cri_imaged.snapshots.layer_mounts import LayerMounts, mount_image
from cri_imaged.snapshots.listing import write_listing
from tests.snapshots.conftest import opened, require_snapshotter
from tests.snapshots.model import Layer, Node, differences, scan, write
from tests.snapshots.test_late import add
from tests.snapshots.workbench import Bench, applied, model, provenance, shown
from tests.support import tarballs as t
from tests.support.erofs import fsck
from tests.support.process import wait_until
from tests.support.require import require_real

CHAIN = Digest.of(b"chain")
DIRECTORY = Node("directory", 0o755)
XATTRS = tuple((f"user.{name}", b"x" * 60) for name in "abcdefgh")
STACK = [
    Layer(
        {
            b"": DIRECTORY,
            b"a": Node("directory", 0o2750, 5, 6, xattrs=XATTRS),
            b"a/b": Node("directory", 0o700, xattrs=XATTRS[:1]),
            **{b"a/b/%d" % number: Node("file", content=b"x") for number in range(400)},
            b"a/file": Node("file", 0o4755, content=b"f" * 9000, xattrs=XATTRS[:2]),
            b"a/link": Node("symlink", content=b"file"),
        }
    ),
    # What it does not list has the attributes of what is below, which do not fit in its place.
    Layer(
        {b"a/b/c/d": Node("file"), **{b"a/b/new%d" % n: Node("file") for n in range(300)}},
        whiteouts=(b"a/b/7", b"a/link", *(b"a/b/%d" % number for number in range(100, 399))),
        links=((b"x/y/z", b"a/file"), (b"a/b/same", b"a/file"), (b"l", b"a/link")),
    ),
    Layer({b"a/b": DIRECTORY, b"a/b/only": Node("file")}, opaques=(b"a/b",), whiteouts=(b"x",)),
    Layer({b"a/b/more": Node("file")}, opaques=(b"",)),
]


def mounted(bench: Bench) -> set[str]:
    below = f"{bench.root}/mounted/"
    return {
        info.mount_point.removeprefix(below)
        for info in mounting.mounts()
        if info.mount_point.startswith(below)
    }


async def test_sealed_images_are_sound() -> None:
    async with opened("erofs", None) as bench:
        top = None
        for number, layer in enumerate(STACK, start=1):
            top = await bench.add(layer, top)
            assert fsck(await bench.snapshotter.path(top)) == ""
            assert differences(await bench.tree(top), model(STACK[:number])) == []


async def test_what_no_writer_makes_is_not_committed() -> None:
    """A worker that was taken over may leave anything."""
    async with opened("erofs", None) as bench:
        into = await bench.snapshotter.prepare("key", None, bench.lease)
        with (into.directory / IMAGE).open("r+b") as file:
            file.seek(SUPER + SUPER_SIZE)
            file.write(b"\1\0" + (7).to_bytes(2, "little"))
        report = applied(implicit=(b"",))
        with pytest.raises(CorruptContentError, match="superblock"):
            await bench.snapshotter.commit(CHAIN, "key", None, report, provenance(report))
        into = await bench.snapshotter.prepare("key", None, bench.lease)
        (into.directory / IMAGE).unlink()
        (into.directory / IMAGE).symlink_to(bench.root / "metadata.db")
        with pytest.raises(OSError, match="symbolic links"):
            await bench.snapshotter.commit(CHAIN, "key", None, report, provenance(report))
        assert bench.left() == []


async def test_a_layer_is_one_file() -> None:
    async with opened("erofs", None) as bench:
        await bench.prepare("unfinished")
        chain = await bench.stack(STACK[:2])
        image = await bench.snapshotter.path(chain)
        assert image == bench.directory / "3"
        assert image.is_file()
        (inodes,) = {each.usage.inodes for each in await bench.snapshotter.walk()}
        assert inodes == 1
        assert bench.left() == ["1", "2", "3"]


async def test_more_than_an_image_in_a_place_goes_at_the_seal() -> None:
    """A worker that was taken over may leave anything."""
    async with opened("erofs", None) as bench:
        into = await bench.snapshotter.prepare("key", None, bench.lease)
        (into.directory / "more" / "below").mkdir(parents=True)
        report = applied()
        await bench.snapshotter.commit(CHAIN, "key", None, report, provenance(report))
        assert (bench.directory / "1").is_file()
        assert bench.left() == ["1"]


async def test_images_in_directories_of_their_own_stay(tmp_path: Path) -> None:
    """As earlier versions kept them."""
    require_snapshotter("erofs")
    async with Bench.open(tmp_path, "erofs") as bench:
        lower = await bench.add(STACK[0])
        in_a_directory(place := bench.directory / "1")
        write_listing(bench.snapshotter._backend.entries(place), place / "listing")
    async with Bench.open(tmp_path, "erofs") as bench:
        assert fsck(await bench.snapshotter.path(lower)) == ""
        assert await bench.snapshotter.verify(lower) == Verdict("sound")
        await bench.commit(CHAIN, "key", lower, write(STACK[1], await bench.prepare("key", lower)))
        assert differences(await bench.tree(CHAIN), model(STACK[:2])) == []
        assert (place / IMAGE).is_file()
        assert (bench.directory / "2").is_file()
        await bench.database.write(lambda db: db.execute("DELETE FROM leases"))
        garbage = await bench.database.write(sweep)
        await bench.snapshotter.reclaim(garbage.snapshots["erofs"])
        assert bench.left() == []


def in_a_directory(image: Path) -> None:
    """Keep it as earlier versions did."""
    image.rename(image.with_suffix(".new"))
    image.mkdir(mode=0o700)
    image.with_suffix(".new").rename(image / IMAGE)


async def test_a_layer_is_mounted_once_for_as_long_as_a_view_stands_on_it() -> None:
    async with opened("erofs", None) as bench:
        lower = await bench.add(STACK[0])
        upper = await bench.add(STACK[1], lower)
        assert mounted(bench) == set()
        with shown(await bench.snapshotter.view("lower", lower)):
            assert mounted(bench) == {"1"}
        with shown(await bench.snapshotter.view("upper", upper, writable=True)) as directory:
            assert mounted(bench) == {"1", "2"}
            await bench.snapshotter.remove("lower")
            assert mounted(bench) == {"1", "2"}
            await bench.snapshotter.remove("upper")
            assert mounted(bench) == set()
            assert (directory / "a/file").stat().st_size == 9000, "overlay keeps what it shows"


async def test_a_start_lets_go_of_what_nothing_stands_on() -> None:
    async with opened("erofs", None) as bench:
        chain = await bench.stack(STACK[:2])
        await bench.snapshotter.view("kept", chain)
        place = bench.directory / "77"
        write_empty(place)
        LayerMounts(bench.root / "mounted", 9, loops=False).mount({place: place})
        assert mounted(bench) == {"1", "2", "77"}
        await bench.snapshotter.reap()
        assert mounted(bench) == {"1", "2"}


def test_there_is_a_limit_on_mounts(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "erofs needs root")
    places = [tmp_path / str(number) for number in range(3)]
    for place in places:
        write_empty(place)
    mounts = LayerMounts(tmp_path / "mounted", 2, loops=False)
    two, three = ({place: place for place in places[:most]} for most in (2, 3))
    mounts.mount(two)
    try:
        mounts.mount(two)
        with pytest.raises(LimitExceededError, match="mounted_layers"):
            mounts.mount(three)
        assert (tmp_path / "mounted").stat().st_mode & 0o777 == 0o700
    finally:
        mounts.keep([])
    assert list((tmp_path / "mounted").iterdir()) == []


async def test_loop_devices_show_the_same_and_go_with_their_mounts() -> None:
    async with opened("erofs", None) as bench:
        top = await bench.add(STACK[0])
        image = await bench.snapshotter.path(top)
        target = bench.root / "by-loop"
        target.mkdir()
        mount_image(image, target, loops=True)
        try:
            (info,) = [each for each in mounting.mounts() if each.mount_point == str(target)]
            assert info.source.startswith("/dev/loop")
            assert differences(scan(target), model(STACK[:1])) == []
        finally:
            mounting.unmount(target)
        wait_until(lambda: str(image) not in backing_files(), "the device goes")  # a moment later


def backing_files() -> list[str]:
    """Files that loop devices show."""
    return [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]


LOWER = t.archive(
    t.directory("d", mode=0o2711, uid=5, mtime=3, pax={"SCHILY.xattr.user.a": "1" * 40}),
    *(t.file("d/f", b"f" * 5000, mtime=7), t.file("d/g"), t.symlink("to", "d")),
)
UPPER = t.archive(
    *(t.file("d/new"), t.whiteout("d/g"), t.hardlink("new/link", "to/f"), t.file("e/f")),
    *(t.opaque("e"), t.whiteout("to")),
)


async def test_the_same_layers_give_the_same_images() -> None:
    images = []
    for _ in range(2):
        async with opened("erofs", None) as bench:
            lower = await add(bench, LOWER)
            upper = await add(bench, UPPER, lower)
            paths = [await bench.snapshotter.path(chain) for chain in (lower, upper)]
            images.append([path.read_bytes() for path in paths])
    assert images[0] == images[1]
