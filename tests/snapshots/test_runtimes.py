"""Snapshots of a runtime: what it adopts is held, what it writes is its own.

The cases are those of containerd's core/snapshots/testsuite, and of its use by CRI.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cri_imaged.errors import (
    AlreadyExistsError,
    InUseError,
    InvalidRequestError,
    NotFoundError,
)
from cri_imaged.metadata import leases
from cri_imaged.metadata.garbage import sweep
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import SnapshotKind, Usage
from cri_imaged.ports.runtimes import GID_MAP_LABEL, REF_LABEL, UID_MAP_LABEL
from cri_imaged.snapshots.runtimes import StoredRuntimeSnapshots
from cri_imaged.trash import remove_tree
from tests.snapshots.model import Layer, Node, differences, scan, write
from tests.snapshots.workbench import Bench, model, shown
from tests.support.require import require_real

ABSENT = Digest(f"sha256:{'0' * 64}")
LOWER = Layer(
    {
        b"": Node("directory", 0o711, 5, 6),
        b"d/old": Node("file", content=b"old", file=object()),
        b"gone": Node("file", content=b"gone", file=object()),
    }
)
UPPER = Layer({b"": Node("directory", 0o750, 7, 8), b"d/new": Node("file", content=b"new")})


def runtime(bench: Bench, name: str = "containerd") -> StoredRuntimeSnapshots:
    return bench.snapshotter.for_runtime(name, lambda: None)


async def adopt(snapshots: StoredRuntimeSnapshots, *chain: Digest) -> str:
    """Have the runtime know a chain, lowest first, as it does before it unpacks."""
    parent = ""
    for number, chain_id in enumerate(chain):
        with pytest.raises(AlreadyExistsError):
            await snapshots.prepare(f"k8s.io/{number}/extract", parent, {REF_LABEL: chain_id})
        parent = chain_id
    return parent


async def drop_lease(bench: Bench) -> None:
    await bench.database.write(lambda db: leases.end(db, bench.lease, keep_for_resume=False))


async def collect(bench: Bench) -> int:
    """How many snapshots a collection removes."""
    swept = (await bench.database.write(sweep)).snapshots.get(bench.snapshotter.name, [])
    await bench.snapshotter.reclaim(swept)
    await bench.trash.drain()
    return len(swept)


async def test_a_chain_of_ours_is_adopted(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    snapshots = runtime(bench)
    assert await adopt(snapshots, lower, upper) == upper
    assert await adopt(snapshots, lower, upper) == upper, "once more is the same"
    first, second = await snapshots.list()
    assert (first.name, first.parent, first.chain_id) == (lower, "", lower)
    assert (second.name, second.parent, second.chain_id) == (upper, lower, upper)
    assert second.kind == SnapshotKind.COMMITTED
    assert second.labels == {REF_LABEL: upper}
    assert await snapshots.stat(upper) == second
    info = await bench.snapshotter.info(upper)
    assert info is not None
    assert await snapshots.usage(upper) == info.usage


async def test_a_whole_chain_is_adopted_or_none_of_it(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    by_us, by_it = runtime(bench), runtime(bench, "other")
    with pytest.raises(NotFoundError, match=f"layers {ABSENT} are not here"):
        await by_us.adopt([lower, ABSENT])
    assert await by_us.list() == []
    for _ in range(2):
        await by_us.adopt([lower, upper])
    await adopt(by_it, lower, upper)
    ours, its = await by_us.list(), await by_it.list()
    assert [(each.name, each.parent, each.labels, each.chain_id) for each in ours] == [
        (each.name, each.parent, each.labels, each.chain_id) for each in its
    ]


async def test_a_chain_is_adopted_on_the_chain_below_it_alone(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    other = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    await adopt(snapshots, other)
    for number, parent in enumerate(("", other)):
        assert await snapshots.prepare(f"key-{number}", parent, {REF_LABEL: upper})
        assert (await snapshots.stat(f"key-{number}")).kind == SnapshotKind.ACTIVE
    with pytest.raises(NotFoundError, match="nowhere"):
        await snapshots.prepare("key", "nowhere", {REF_LABEL: upper})


async def test_a_chain_is_adopted_on_what_the_runtime_had_unpacked_itself(bench: Bench) -> None:
    """containerd never asks again for a chain that it has, and names it in its own way."""
    snapshots = runtime(bench)
    mounts = await snapshots.prepare("ns/1/extract", "", {})
    with shown(mounts) as directory:
        (directory / "own").touch()
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    top = await bench.add(LOWER, upper)
    own = f"ns/2/{lower}"
    await snapshots.commit(own, "ns/1/extract", {})
    await snapshots.adopt([lower, upper, top])
    parent = own
    for chain_id in (upper, top):
        for _ in range(2):
            with pytest.raises(AlreadyExistsError, match="is here already"):
                await snapshots.prepare("extract", parent, {REF_LABEL: chain_id})
        (found,) = [
            each
            for each in await snapshots.list()
            if each.parent == parent and each.labels.get(REF_LABEL) == chain_id
        ]
        assert (found.kind, found.chain_id) == (SnapshotKind.COMMITTED, chain_id)
        parent = found.name
    with shown(await snapshots.prepare("ns/3/container", parent, {})) as directory:
        assert differences(scan(directory), model([LOWER, UPPER, LOWER])) == []
    assert (await snapshots.stat(top)).parent == upper, "the other names are what they were"


async def test_a_chain_is_adopted_on_nothing_that_only_looks_like_what_is_below_it(
    bench: Bench,
) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    snapshots = runtime(bench)
    await snapshots.prepare(f"ns/1/{lower}", "", {})
    with pytest.raises(InvalidRequestError, match="not committed"):
        await snapshots.prepare("key", f"ns/1/{lower}", {REF_LABEL: upper})
    for name, above in ((f"mine-{lower}", upper), (lower, lower)):
        await snapshots.prepare("extract", "", {})
        await snapshots.commit(name, "extract", {})
        key, parent = f"on {name}", name if above == upper else ""
        await snapshots.prepare(key, parent, {REF_LABEL: above})
        assert (await snapshots.stat(key)).kind == SnapshotKind.ACTIVE
        assert (await snapshots.stat(name)).chain_id is None, "it is the runtime's own"


async def test_a_chain_that_was_lost_is_back_under_each_of_its_names(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    snapshots = runtime(bench)
    await snapshots.prepare("extract", "", {})
    own = f"ns/1/{lower}"
    await snapshots.commit(own, "extract", {})
    with pytest.raises(AlreadyExistsError):
        await snapshots.prepare("key", own, {REF_LABEL: upper})
    (marked,) = [each.name for each in await snapshots.list() if each.parent == own]
    await bench.snapshotter.give_up([upper])
    with pytest.raises(NotFoundError):
        await snapshots.stat(marked)
    directory = await bench.prepare("again", lower)
    await bench.commit(upper, "again", lower, write(UPPER, directory))
    await snapshots.adopt([lower, upper])
    assert (await snapshots.stat(marked)).chain_id == upper


async def test_what_a_container_stands_on_is_never_collected(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    snapshots = runtime(bench)
    await adopt(snapshots, lower, upper)
    mounts = await snapshots.prepare("container", upper, {})
    await drop_lease(bench)
    assert await collect(bench) == 0
    for name in (lower, upper):
        with pytest.raises(InUseError, match="stands on it"):
            await snapshots.remove(name)
    with shown(mounts) as directory:
        assert differences(scan(directory), model([LOWER, UPPER])) == []
    await snapshots.remove("container")
    await snapshots.remove(upper)
    assert await collect(bench) == 1
    await snapshots.remove(lower)
    assert await collect(bench) == 1
    assert bench.left() == []


async def test_removal_of_what_was_adopted_takes_no_layer(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    await snapshots.remove(lower)
    assert await snapshots.list() == []
    assert differences(await bench.tree(lower), model([LOWER])) == []


async def test_two_runtimes_do_not_see_one_another(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    one, other = runtime(bench), runtime(bench, "other")
    await adopt(one, lower)
    assert await other.list() == []
    with pytest.raises(NotFoundError):
        await other.prepare("container", lower, {})
    await adopt(other, lower)
    await one.remove(lower)
    await drop_lease(bench)
    assert await collect(bench) == 0
    await other.prepare("container", lower, {})
    await other.forget()
    assert await other.list() == []
    assert await collect(bench) == 1
    assert bench.left() == []


async def test_a_container_writes_into_its_own(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    snapshots = runtime(bench)
    await adopt(snapshots, lower, upper)
    mounts = await snapshots.prepare("container", upper, {"a": "b"})
    assert await snapshots.mounts("container") == mounts
    info = await snapshots.stat("container")
    assert (info.kind, info.parent, info.chain_id) == (SnapshotKind.ACTIVE, upper, upper)
    before = await snapshots.usage("container")
    with shown(mounts) as directory:
        assert differences(scan(directory), model([LOWER, UPPER])) == []
        (directory / "d/written").write_bytes(b"x" * 100_000)
    after = await snapshots.usage("container")
    assert after.bytes >= before.bytes + 100_000
    with shown(await snapshots.prepare("second", upper, {})) as directory:
        assert differences(scan(directory), model([LOWER, UPPER])) == []
    assert differences(await bench.tree(upper), model([LOWER, UPPER])) == []


async def test_a_container_has_the_owner_and_mode_of_the_root_below(bench: Bench) -> None:
    require_real(os.geteuid() == 0, "owners need root")
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    with shown(await snapshots.prepare("container", lower, {})) as directory:
        info = directory.stat()
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o711, 5, 6)


async def test_what_the_runtime_unpacks_itself_becomes_layers(bench: Bench) -> None:
    snapshots = runtime(bench)
    lower = await bench.add(LOWER)
    await adopt(snapshots, lower)
    parent = lower
    for number in range(3):
        with shown(await snapshots.prepare("extract", parent, {REF_LABEL: "sha256:x"})) as folder:
            (folder / f"file-{number}").write_text(f"{number}")
            (folder / "d" / f"{number}").write_text("x")
            if number == 1:
                (folder / "gone").unlink()
        name = f"k8s.io/{number}/sha256:x"
        await snapshots.commit(name, "extract", {"c": f"{number}"})
        info = await snapshots.stat(name)
        assert (info.kind, info.parent) == (SnapshotKind.COMMITTED, parent)
        assert (info.labels, info.chain_id) == ({"c": f"{number}"}, lower)
        with pytest.raises(NotFoundError):
            await snapshots.stat("extract")
        assert (await snapshots.usage(name)).inodes >= 3
        parent = name
    with shown(await snapshots.view("view", parent, {})) as directory:
        names = {os.fsdecode(path) for path in scan(directory)}
    assert names == {"", "d", "d/old", "d/0", "d/1", "d/2", "file-0", "file-1", "file-2"}
    assert [info.name for info in await snapshots.list()][-1] == "view"
    with pytest.raises(InUseError):
        await snapshots.remove("k8s.io/1/sha256:x")
    with pytest.raises(InUseError, match="is committed"):
        await snapshots.mounts(parent)


async def test_of_nothing(bench: Bench) -> None:
    snapshots = runtime(bench)
    (mount,) = await snapshots.prepare("bottom", "", {})
    assert (mount.type, set(mount.options)) == ("bind", {"rbind", "rw"})
    (Path(mount.source) / "file").write_text("x")
    await snapshots.commit("k8s.io/1/bottom", "bottom", {})
    with shown(await snapshots.view("view", "k8s.io/1/bottom", {})) as directory:
        assert (directory / "file").read_text() == "x"
    with shown(await snapshots.view("empty", "", {})) as directory:
        assert os.listdir(directory) == []
        assert directory.stat().st_mode & 0o777 == 0o755
    await snapshots.forget()
    await bench.trash.drain()
    assert bench.left() == []


async def test_a_view_cannot_be_written(bench: Bench) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    snapshots = runtime(bench)
    await adopt(snapshots, lower, upper)
    for number, parent in enumerate((lower, upper, "")):
        mounts = await snapshots.view(f"view-{number}", parent, {})
        with shown(mounts) as directory, pytest.raises(OSError, match="Read-only"):
            (directory / "new").touch()
    with pytest.raises(InUseError):
        await snapshots.commit("name", "view-0", {})


async def test_names_are_used_once(bench: Bench) -> None:
    snapshots = runtime(bench)
    await snapshots.prepare("active", "", {})
    for again in (snapshots.prepare, snapshots.view):
        with pytest.raises(AlreadyExistsError, match="active"):
            await again("active", "", {})
    with pytest.raises(InvalidRequestError, match="not committed"):
        await snapshots.prepare("other", "active", {})
    await snapshots.prepare("second", "", {})
    await snapshots.commit("name", "active", {})
    with pytest.raises(AlreadyExistsError, match="name"):
        await snapshots.commit("name", "second", {})
    with pytest.raises(InUseError, match="not active"):
        await snapshots.commit("other", "name", {})
    for refused in (
        snapshots.stat("none"),
        snapshots.mounts("none"),
        snapshots.usage("none"),
        snapshots.remove("none"),
        snapshots.update("none", {}),
        snapshots.commit("other", "none", {}),
        snapshots.prepare("other", "none", {}),
    ):
        with pytest.raises(NotFoundError, match="none"):
            await refused
    for refused in (snapshots.prepare("", "", {}), snapshots.commit("", "second", {})):
        with pytest.raises(InvalidRequestError, match="empty"):
            await refused


async def test_labels_are_updated(bench: Bench) -> None:
    snapshots = runtime(bench)
    await snapshots.prepare("key", "", {"a": "1", "b.c": "2"})
    before = await snapshots.stat("key")
    info = await snapshots.update("key", {"a": "3", "x": "4"}, ["labels.a", "labels.b.c"])
    assert info.labels == {"a": "3"}
    assert info.updated > before.updated
    assert info.created == before.created
    assert (await snapshots.update("key", {"n": "5"}, ["labels"])).labels == {"n": "5"}
    assert (await snapshots.update("key", {"m": "6"})).labels == {"m": "6"}
    for path in ("kind", "labels.", "label"):
        with pytest.raises(InvalidRequestError, match="cannot be changed"):
            await snapshots.update("key", {}, [path])


async def test_users_of_a_namespace_own_the_root(bench: Bench) -> None:
    require_real(os.geteuid() == 0, "owners need root")
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    labels = {UID_MAP_LABEL: "0:65536:65536", GID_MAP_LABEL: "0:70000:10,10:80000:10"}
    (mount,) = await snapshots.prepare("container", lower, labels)
    assert mount.options[:2] == (
        f"uidmap={labels[UID_MAP_LABEL]}",
        f"gidmap={labels[GID_MAP_LABEL]}",
    )
    assert await snapshots.mounts("container") == [mount]
    upper = next(
        (option[9:] for option in mount.options if option.startswith("upperdir=")), mount.source
    )
    info = os.stat(upper)
    assert (info.st_uid, info.st_gid) == (65536, 70000)
    for wrong in (
        {UID_MAP_LABEL: "0:1:2"},
        {UID_MAP_LABEL: "x", GID_MAP_LABEL: "0:1:2"},
        {UID_MAP_LABEL: "1:1:2", GID_MAP_LABEL: "0:1:2"},
        {UID_MAP_LABEL: "0:1:2,upperdir=/", GID_MAP_LABEL: "0:1:2"},
        {UID_MAP_LABEL: "0:4294967295:1", GID_MAP_LABEL: "0:1:2"},
        {UID_MAP_LABEL: "0:9999999999:1", GID_MAP_LABEL: "0:1:2"},
        {UID_MAP_LABEL: "0:\u0661:2", GID_MAP_LABEL: "0:1:2"},
    ):
        with pytest.raises(InvalidRequestError):
            await snapshots.prepare("other", lower, wrong)


def deeper_than_a_path(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


async def test_directories_too_deep_for_a_path_are_measured_as_far_as_one_reaches(
    bench: Bench,
) -> None:
    snapshots = runtime(bench)
    (mount,) = await snapshots.prepare("container", "", {})
    deeper_than_a_path(mount.source)
    assert 70 < (await snapshots.usage("container")).inodes < 100


async def test_layers_that_are_gone_from_disk_are_told_of(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    await snapshots.prepare("container", lower, {})
    layer = await bench.snapshotter.path(lower)
    remove_tree(bench.directory / layer.relative_to(bench.directory).parts[0])
    with pytest.raises(NotFoundError, match="gone from disk"):
        await snapshots.mounts("container")


async def test_layers_that_were_lost_and_came_again(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    mounts = await snapshots.prepare("container", lower, {})
    await bench.snapshotter.give_up([lower])
    with pytest.raises(NotFoundError):
        await snapshots.stat(lower)
    with pytest.raises(NotFoundError):
        await snapshots.prepare("other", lower, {})
    listed = await snapshots.list()
    assert [(info.name, info.parent) for info in listed] == [(lower, ""), ("container", lower)]
    await drop_lease(bench)
    assert await collect(bench) == 0, "the container still runs on it"
    with shown(mounts) as directory:
        assert (directory / "d/old").read_text() == "old"

    other = leases.new()
    await bench.hold(other)
    bench.lease = other
    directory = await bench.prepare("again")
    await bench.commit(lower, "again", None, write(LOWER, directory))
    await adopt(snapshots, lower)
    assert (await snapshots.stat(lower)).chain_id == lower
    assert await snapshots.mounts("container") == mounts
    assert await snapshots.prepare("other", lower, {}) != mounts
    await snapshots.remove("container")
    await drop_lease(bench)
    assert await collect(bench) == 1


async def test_what_stands_on_lost_layers_can_be_removed_by_the_list(bench: Bench) -> None:
    """As containerd's collector does: from the roots of what is listed, children first."""
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    await snapshots.prepare("container", lower, {})
    await bench.snapshotter.give_up([lower])
    await drop_lease(bench)
    listed = await snapshots.list()
    assert {info.parent for info in listed} <= {"", *(info.name for info in listed)}
    for info in reversed(listed):
        await snapshots.remove(info.name)
    assert await snapshots.list() == []
    assert await collect(bench) == 1
    await bench.trash.drain()
    assert list(bench.directory.glob("r*")) == []


async def test_what_a_crash_leaves(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    await snapshots.prepare("lost", lower, {})
    (lost,) = bench.directory.glob("r*")
    mounts = await snapshots.prepare("container", lower, {"a": "b"})
    await snapshots.prepare("extract", "", {})
    await snapshots.commit("k8s.io/1/own", "extract", {})
    before = await snapshots.list()
    kept = {place.name for place in bench.directory.glob("r*")} - {lost.name}
    remove_tree(lost)
    for leftover in ("r99", "r98.new"):
        (bench.directory / leftover).mkdir()
    assert len(await bench.snapshotter.orphans()) == 2
    await bench.snapshotter.reap()
    await bench.trash.drain()
    assert {place.name for place in bench.directory.glob("r*")} == kept
    after = runtime(bench)
    assert await after.list() == [info for info in before if info.name != "lost"]
    assert await after.mounts("container") == mounts


@pytest.mark.parametrize("ticks", [0, 1, 2, 4, 8, 16, 64])
async def test_a_cancelled_prepare_leaves_nothing(bench: Bench, ticks: int) -> None:
    lower = await bench.add(LOWER)
    snapshots = runtime(bench)
    await adopt(snapshots, lower)
    begun = asyncio.ensure_future(snapshots.prepare("container", lower, {}))
    for _ in range(ticks):
        await asyncio.sleep(0)
    begun.cancel()
    await asyncio.wait([begun])
    if not begun.cancelled():
        await snapshots.remove("container")
    await bench.trash.drain()
    assert [info.name for info in await snapshots.list()] == [lower]
    assert len(bench.left()) == 1


async def test_usage_counts_a_file_of_two_names_once(bench: Bench) -> None:
    snapshots = runtime(bench)
    (mount,) = await snapshots.prepare("key", "", {})
    root = Path(mount.source)
    empty = await snapshots.usage("key")
    assert empty.inodes == 1
    (root / "one").write_bytes(os.urandom(40_960))
    os.link(root / "one", root / "two")
    assert await snapshots.usage("key") == Usage(empty.bytes + 40_960, 2)
