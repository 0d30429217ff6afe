"""What every snapshotter does, whatever it keeps its snapshots in.

The cases are at least those of containerd's core/snapshots/testsuite, as far as an image daemon
has them (no rename, no label updates: nothing here asks for them).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest

from cri_imaged.errors import InvalidRequestError, NotFoundError
from cri_imaged.metadata import leases, totals
from cri_imaged.metadata.garbage import sweep
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import IMAGE, ImageTarget, Skipped, SnapshotToken, Usage
from cri_imaged.trash import remove_tree
from tests.snapshots.images import pack
from tests.snapshots.model import Layer, Node, differences, scan, write
from tests.snapshots.workbench import Bench, applied, model, provenance, shown
from tests.support.erofs import mounted
from tests.support.require import require_real

FILE = Node("file", 0o644, content=b"x")
DIRECTORY = Node("directory", 0o755)
ONE = Layer({b"": DIRECTORY, b"foo": Node("file", content=b"foo\n"), b"a": DIRECTORY})
TWO = Layer({b"": DIRECTORY, b"bar": Node("file", content=b"bar\n")}, whiteouts=(b"a",))
A = Digest.of(b"a")


def file(content: bytes, mode: int = 0o644, uid: int = 0) -> Node:
    return Node("file", mode, uid, uid, content=content, file=object())


# --- commit, info, walk, usage ---------------------------------------------------------------


async def test_prepare_commit_view_walk(bench: Bench) -> None:
    first = await bench.add(ONE)
    second = await bench.add(TWO, first)
    assert differences(await bench.tree(first), model([ONE])) == []
    assert differences(await bench.tree(second), model([ONE, TWO])) == []
    info = await bench.snapshotter.info(second)
    assert info is not None
    assert (info.chain_id, info.parent) == (second, first)
    assert [each.chain_id for each in await bench.snapshotter.walk()] == [first, second]
    assert await bench.snapshotter.info(first) == (await bench.snapshotter.walk())[0]


async def test_what_is_being_prepared_is_not_a_snapshot(bench: Bench) -> None:
    await bench.prepare("key")
    assert await bench.snapshotter.walk() == []
    assert await bench.snapshotter.info(A) is None
    with pytest.raises(NotFoundError):
        await bench.snapshotter.view("view", A)
    with pytest.raises(NotFoundError):
        await bench.snapshotter.path(A)


async def test_the_key_is_free_after_the_commit(bench: Bench) -> None:
    directory = await bench.prepare("key")
    await bench.commit(A, "key", None, write(ONE, directory))
    with pytest.raises(NotFoundError, match="key"):
        await bench.commit(Digest.of(b"b"), "key", None, applied())
    await bench.prepare("key", A)


async def test_parents_are_a_chain(bench: Bench) -> None:
    a = await bench.add(ONE)
    b = await bench.add(TWO, a)
    c = await bench.add(Layer({b"c": FILE}), b)
    parents = {each.chain_id: each.parent for each in await bench.snapshotter.walk()}
    assert parents == {a: None, b: a, c: b}


async def test_walk_names_parents_before_children_whatever_was_prepared_first(
    bench: Bench,
) -> None:
    upper = await bench.prepare("upper")
    lower = await bench.prepare("lower")
    await bench.commit(A, "lower", None, write(ONE, lower))
    await bench.commit(Digest.of(b"b"), "upper", A, write(TWO, upper))
    assert [each.chain_id for each in await bench.snapshotter.walk()] == [A, Digest.of(b"b")]


async def test_a_layer_may_be_applied_before_its_parent_is_committed(bench: Bench) -> None:
    upper = await bench.prepare("upper", A)
    done = write(TWO, upper)
    lower = await bench.prepare("lower")
    await bench.commit(A, "lower", None, write(ONE, lower))
    await bench.commit(Digest.of(b"b"), "upper", A, done)
    assert differences(await bench.tree(Digest.of(b"b")), model([ONE, TWO])) == []


async def test_the_parent_must_be_committed_by_then(bench: Bench) -> None:
    directory = await bench.prepare("key", A)
    with pytest.raises(NotFoundError, match=A):
        await bench.commit(Digest.of(b"b"), "key", A, write(TWO, directory))
    await bench.trash.drain()
    assert bench.left() == []


async def test_a_chain_that_is_there_already(bench: Bench) -> None:
    top = await bench.add(ONE)
    directory = await bench.prepare("again")
    other = leases.new()
    await bench.hold(other)
    await bench.commit(top, "again", None, write(TWO, directory))
    await bench.trash.drain()
    assert len(bench.left()) == 1
    assert differences(await bench.tree(top), model([ONE])) == []
    await bench.prepare("again")


async def test_the_lease_of_the_loser_holds_the_winner(bench: Bench) -> None:
    top = await bench.add(ONE)
    other = leases.new()
    await bench.hold(other)
    await bench.snapshotter.prepare("again", None, other)
    await bench.commit(top, "again", None, applied())
    await bench.database.write(lambda db: leases.end(db, bench.lease, keep_for_resume=False))
    assert (await bench.database.write(sweep)).snapshots == {}
    await bench.database.write(lambda db: leases.end(db, other, keep_for_resume=False))
    assert len((await bench.database.write(sweep)).snapshots) == 1


@pytest.mark.parametrize("turns", range(6))
async def test_a_chain_that_is_collected_while_it_is_committed_again(
    bench: Bench, turns: int
) -> None:
    """Wherever the collection comes in between, it is either there or not."""
    first = await bench.add(ONE)
    second = await bench.add(TWO, first)
    other = leases.new()
    await bench.hold(other)
    into = await bench.snapshotter.prepare("again", first, other)
    if isinstance(into, ImageTarget):
        again = bench.commit(second, "again", first, write(TWO, stage := bench.root / "again"))
        pack(stage, into.directory / IMAGE)
    else:
        again = bench.commit(second, "again", first, write(TWO, into.directory))
    await bench.database.write(lambda db: leases.end(db, bench.lease, keep_for_resume=False))
    committing = asyncio.create_task(again)
    for _ in range(turns):
        await asyncio.sleep(0)
    garbage = await bench.database.write(sweep)
    (refusal,) = await asyncio.gather(committing, return_exceptions=True)
    await bench.snapshotter.reclaim(garbage.snapshots.get(bench.snapshotter.name, ()))
    await bench.trash.drain()
    if refusal is None:
        assert differences(await bench.tree(second), model([ONE, TWO])) == []
    else:
        assert isinstance(refusal, NotFoundError)
        assert await bench.snapshotter.info(second) is None
    assert len(bench.left()) == (0 if refusal else 2)


async def test_two_commits_of_one_chain_at_once(bench: Bench) -> None:
    keys = [f"key-{number}" for number in range(6)]
    done = [write(ONE, await bench.prepare(key)) for key in keys]
    await asyncio.gather(
        *(bench.commit(A, key, None, result) for key, result in zip(keys, done, strict=True))
    )
    await bench.trash.drain()
    assert len(bench.left()) == 1
    assert differences(await bench.tree(A), model([ONE])) == []


async def test_what_was_skipped_is_kept(bench: Bench) -> None:
    skipped = Skipped(owners=1, devices=2, xattrs=3, times=4)
    await bench.prepare("key")
    await bench.commit(A, "key", None, applied(skipped=skipped))
    info = await bench.snapshotter.info(A)
    assert info is not None
    assert info.skipped == skipped
    chain = await bench.add(ONE)
    other = await bench.snapshotter.info(chain)
    assert other is not None
    assert other.skipped == Skipped()


async def test_each_way_to_a_snapshot_is_kept_once(bench: Bench) -> None:
    ways = [
        provenance(applied(), blob, repository)
        for blob, repository in ((b"1", "r/a"), (b"2", "r/a"), (b"2", ""), (b"1", "r/a"))
    ]
    for number, way in enumerate(ways):
        await bench.prepare(f"key-{number}")
        await bench.snapshotter.commit(A, f"key-{number}", None, applied(), way)
    info = await bench.snapshotter.info(A)
    assert info is not None
    assert info.provenance == tuple(ways[1:]), "the newest last"
    assert await bench.snapshotter.walk() == [info]


async def test_a_lease_holds_the_highest_that_is_there(bench: Bench) -> None:
    first = await bench.add(ONE)
    second = await bench.add(TWO, first)
    other = leases.new()
    await bench.hold(other)
    held = await bench.snapshotter.hold_chain([first, second, A], other)
    assert held == await bench.snapshotter.walk()
    assert await bench.snapshotter.hold_chain([A], other) == []
    assert not await bench.snapshotter.hold(A, other)
    await bench.database.write(lambda db: leases.end(db, bench.lease, keep_for_resume=False))
    assert (await bench.database.write(sweep)).snapshots == {}
    assert await bench.snapshotter.hold(first, other)


async def test_usage_is_of_the_layer_alone(bench: Bench) -> None:
    async def usage(chain_id: Digest) -> Usage:
        info = await bench.snapshotter.info(chain_id)
        assert info is not None
        return info.usage

    first = await bench.add(Layer({b"d/big": file(b"x" * 100_000), b"d/small": file(b"x")}))
    if bench.snapshotter.name == "erofs":
        images = [first, await bench.add(Layer({b"e": FILE}), first)]
        for chain_id in images:
            info = (await bench.snapshotter.path(chain_id)).stat()
            assert await usage(chain_id) == Usage(info.st_blocks * 512, 1)
        return
    assert await usage(first) == Usage(100_001, 4)  # root, d and two files
    links = ((b"l", b"d/big"), (b"m", b"d/big"))
    second = await bench.add(Layer({b"other": file(b"12345")}, links=links), first)
    copied, directories = 25, 1 if bench.snapshotter.name == "native" else 0
    assert await usage(second) == Usage(5 + (copied + directories) * 4096, 3 + directories)
    third = await bench.add(Layer(whiteouts=(b"other",)), second)
    whiteouts = 1 if bench.snapshotter.name == "overlay" else 0
    assert await usage(third) == Usage(directories * 4096, 1 + directories + whiteouts)
    each = [await usage(chain_id) for chain_id in (first, second, third)]
    assert (await bench.database.read(totals.taken))[bench.snapshotter.name] == Usage(
        sum(one.bytes for one in each), sum(one.inodes for one in each)
    )


async def test_the_root_of_a_layer_that_does_not_list_it(bench: Bench) -> None:
    top = await bench.add(Layer({b"a": FILE}))
    root = (await bench.tree(top))[b""]
    assert root.mode == 0o755


# --- keys and leases --------------------------------------------------------------------------


async def test_a_key_is_used_once(bench: Bench) -> None:
    top = await bench.add(ONE)
    await bench.prepare("active", top)
    with pytest.raises(InvalidRequestError, match="active"):
        await bench.prepare("active")
    with pytest.raises(InvalidRequestError, match="active"):
        await bench.snapshotter.view("active", top)
    await bench.snapshotter.view("view", top)
    with pytest.raises(InvalidRequestError, match="view"):
        await bench.prepare("view")
    with pytest.raises(InvalidRequestError, match="view"):
        await bench.snapshotter.view("view", top, writable=True)
    other = await bench.add(TWO)
    with pytest.raises(InvalidRequestError, match="view"):
        await bench.snapshotter.view("view", other)
    for refused in (bench.prepare(""), bench.snapshotter.view("", top)):
        with pytest.raises(InvalidRequestError, match="empty"):
            await refused
    assert (await bench.snapshotter.views())[0].key == "view"
    await bench.commit(Digest.of(b"b"), "active", top, applied())


async def test_a_key_may_be_used_again_after_its_removal(bench: Bench) -> None:
    top = await bench.add(ONE)
    await bench.prepare("key", top)
    await bench.snapshotter.remove("key")
    await bench.snapshotter.view("key", top)
    await bench.snapshotter.remove("key")
    await bench.snapshotter.view("key", top, writable=True)
    await bench.snapshotter.remove("key")
    directory = await bench.prepare("key")
    await bench.commit(A, "key", None, write(ONE, directory))
    await bench.snapshotter.remove("key")
    await bench.snapshotter.remove("never there")
    await bench.trash.drain()
    assert len(bench.left()) == 2
    assert await bench.snapshotter.info(A) is not None


async def test_a_lease_that_ended_holds_nothing(bench: Bench) -> None:
    gone = leases.new()
    await bench.database.write(lambda db: leases.end(db, gone, keep_for_resume=False))
    with pytest.raises(NotFoundError, match="lease"):
        await bench.snapshotter.prepare("key", None, gone)
    await bench.trash.drain()
    assert bench.left() == []
    directory = await bench.prepare("key")
    done = write(ONE, directory)
    await bench.database.write(lambda db: leases.end(db, bench.lease, keep_for_resume=False))
    await bench.commit(A, "key", None, done)
    garbage = await bench.database.write(sweep)
    assert len(garbage.snapshots[bench.snapshotter.name]) == 1


# --- views --------------------------------------------------------------------------------------


async def test_the_same_view_again(bench: Bench) -> None:
    top = await bench.stack([ONE, TWO])
    for writable in (False, True):
        key = f"view-{writable}"
        first = await bench.snapshotter.view(key, top, writable=writable)
        assert await bench.snapshotter.view(key, top, writable=writable) == first
        (listed,) = (view for view in await bench.snapshotter.views() if view.key == key)
        assert (listed.chain_id, listed.writable, listed.mounts) == (top, writable, tuple(first))


async def test_many_asking_for_one_view(bench: Bench) -> None:
    top = await bench.stack([ONE, TWO])
    asked = [bench.snapshotter.view("view", top, writable=True) for _ in range(8)]
    mounts = await asyncio.gather(*asked)
    assert all(each == mounts[0] for each in mounts)
    assert len(await bench.snapshotter.views()) == 1


async def test_a_view_whose_layers_are_gone_from_disk_is_listed_all_the_same(bench: Bench) -> None:
    top = await bench.stack([ONE, TWO])
    for writable in (False, True):
        await bench.snapshotter.view(f"view-{writable}", top, writable=writable)
    layer = await bench.snapshotter.path(top)
    remove_tree(bench.directory / layer.relative_to(bench.directory).parts[0])
    await bench.snapshotter.reap()
    assert {view.key for view in await bench.snapshotter.views()} == {"view-False", "view-True"}


async def test_many_views_of_no_layers_at_once(bench: Bench) -> None:
    opened = [bench.snapshotter.view(f"view-{n}", None, writable=True) for n in range(16)]
    for mounts in await asyncio.gather(*opened):
        assert mounts
    assert len(await bench.snapshotter.views()) == 16


async def test_a_read_only_view_cannot_be_written(bench: Bench) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    top = await bench.stack([ONE, TWO])
    for chain in (top, await bench.add(ONE), None):
        mounts = await bench.snapshotter.view(f"view-{chain}", chain)
        with shown(mounts) as directory, pytest.raises(OSError, match="Read-only"):
            os.close(os.open(directory / "new", os.O_CREAT))


async def test_what_a_writable_view_changes_stays_its_own(bench: Bench) -> None:
    lower = Layer(
        {
            b"": Node("directory", 0o711, 5, 6, xattrs=(("user.a", b"1"),)),
            b"d/f": file(b"old", 0o600, 7),
            b"d/g": file(b"old"),
        },
        hardlinks={b"d/h": b"d/f"},
    )
    stack = [lower, TWO, Layer({b"sealed/x": FILE})]
    stack[1] = replace(TWO, entries={b"bar": FILE})
    top = await bench.stack(stack)
    wanted = model(stack)
    mounts = await bench.snapshotter.view("one", top, writable=True)
    with shown(mounts) as directory:
        assert differences(scan(directory), wanted) == []
        (directory / "d/f").write_text("new")
        (directory / "d/g").unlink()
        (directory / "new").mkdir()
    with shown(await bench.snapshotter.view("two", top, writable=True)) as directory:
        assert differences(scan(directory), wanted) == []
    assert differences(await bench.tree(top), wanted) == []
    with shown(await bench.snapshotter.view("one", top, writable=True)) as directory:
        assert (directory / "d/f").read_text() == "new"
        assert sorted(os.listdir(directory / "d")) == ["f", "h"]
    await bench.snapshotter.remove("one")
    await bench.snapshotter.remove("two")
    await bench.trash.drain()
    assert len(bench.left()) == len(stack)


async def test_an_image_without_layers_is_an_empty_directory(bench: Bench) -> None:
    for writable in (False, True):
        mounts = await bench.snapshotter.view(f"view-{writable}", None, writable=writable)
        with shown(mounts) as directory:
            assert os.listdir(directory) == []
            assert os.stat(directory).st_mode & 0o777 == 0o755
    assert await bench.snapshotter.walk() == []
    assert [view.chain_id for view in await bench.snapshotter.views()] == [None, None]
    for writable in (False, True):
        await bench.snapshotter.remove(f"view-{writable}")
    garbage = await bench.database.write(sweep)
    await bench.snapshotter.reclaim(garbage.snapshots[bench.snapshotter.name])
    await bench.trash.drain()
    assert bench.left() == []


async def test_a_view_keeps_its_snapshots(bench: Bench) -> None:
    top = await bench.stack([ONE, TWO])
    mounts = await bench.snapshotter.view("view", top)
    await bench.database.write(lambda db: leases.end(db, bench.lease, keep_for_resume=False))
    assert (await bench.database.write(sweep)).snapshots == {}
    with shown(mounts) as directory:
        assert differences(scan(directory), model([ONE, TWO])) == []
    await bench.snapshotter.remove("view")
    garbage = (await bench.database.write(sweep)).snapshots[bench.snapshotter.name]
    assert len(garbage) == 2
    assert len(bench.left()) == 2
    await bench.snapshotter.reclaim(garbage)
    await bench.trash.drain()
    assert bench.left() == []


async def test_what_still_has_its_row_is_not_reclaimed(bench: Bench) -> None:
    top = await bench.stack([ONE, TWO])
    await bench.snapshotter.reclaim([SnapshotToken(int(name)) for name in bench.left()])
    assert differences(await bench.tree(top), model([ONE, TWO])) == []


# --- stacks -----------------------------------------------------------------------------------

STACKS = {
    "a file is updated": [
        Layer({b"etc": DIRECTORY, b"etc/hosts": file(b"one", 0o644), b"etc/profile": file(b"p")}),
        Layer({b"etc/hosts": file(b"two", 0o600)}),
        Layer({b"etc/profile": file(b"q" * 5000), b"root/.bashrc": file(b"r")}),
    ],
    "a directory of a lower layer is removed": [
        Layer({b"lib": DIRECTORY, b"lib/hidden": file(b"h")}),
        Layer(whiteouts=(b"lib",)),
        Layer({b"lib": DIRECTORY, b"lib/hidden": DIRECTORY, b"lib/not": file(b"n")}),
    ],
    "owners change": [
        Layer({b"opt": Node("directory", uid=1, gid=2, mode=0o755), b"opt/a": file(b"a", uid=1)}),
        Layer({b"opt": Node("directory", uid=3, gid=4, mode=0o755), b"opt/a": file(b"a", uid=3)}),
    ],
    "permissions of directories": [
        Layer({b"a": Node("directory", 0o700), b"b": Node("directory", 0o1777)}),
        Layer({b"a": Node("directory", 0o777), b"b/x": file(b"x")}),
        Layer({b"a/y": file(b"y"), b"b": Node("directory", 0o000)}),
    ],
    "files are deleted in a child": [
        Layer({b"foo": file(b"foo"), b"foobar": file(b"foobar")}),
        Layer(whiteouts=(b"foobar",)),
        Layer(),
    ],
    "a file moves": [
        Layer({b"dir1/f1": file(b"Hello"), b"dir2/f2": file(b"...")}),
        Layer({b"dir3/f1": file(b"Hello")}, whiteouts=(b"dir1", b"dir2/f2")),
        Layer(links=((b"dir4/g", b"dir3/f1"), (b"h", b"dir3/f1"), (b"i", b"h"))),
    ],
    "a whiteout of what only an opaque layer hides": [
        Layer({b"d/x": file(b"1")}),
        Layer({b"d/y": file(b"2")}, opaques=(b"d",)),
        Layer({b"d/z": file(b"3")}, whiteouts=(b"d/x", b"d/y")),
    ],
    "whiteouts of nothing, in a directory that nobody else has": [
        Layer({b"d/x": file(b"1")}, whiteouts=(b"d/y", b"e/f", b"nothing")),
        Layer({b"d/z": file(b"1")}, whiteouts=(b"d/none",)),
    ],
    "what an opaque directory gives an implicit one above it": [
        Layer({b"d": Node("directory", 0o750, 3, 4), b"d/x": file(b"1")}),
        Layer({b"d": Node("directory", 0o710, 5, 6), b"d/y": file(b"2")}, opaques=(b"d",)),
        Layer({b"d/z": file(b"3")}),
        Layer(whiteouts=(b"d/y",)),
    ],
    "an opaque root": [
        Layer({b"": Node("directory", 0o700), b"a/b": file(b"1"), b"c": file(b"2")}),
        Layer({b"a/d": file(b"3")}, opaques=(b"",)),
        Layer({b"e": file(b"4")}, whiteouts=(b"c",)),
    ],
    "a link of a lower layer gives way to a directory": [
        Layer({b"usr/lib/x": file(b"1"), b"lib": Node("symlink", content=b"usr/lib")}),
        Layer({b"lib/y": file(b"2")}),
    ],
    "names at their longest": [
        Layer({b"n" * 255: file(b"1"), b"d" * 255: DIRECTORY}),
        Layer({b"d" * 255 + b"/" + b"e" * 255: file(b"2")}, whiteouts=(b"n" * 255, b"m" * 256)),
    ],
}


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())
async def test_stack(bench: Bench, stack: list[Layer]) -> None:
    for height in range(1, len(stack) + 1):
        top = await bench.stack(stack[:height])
        assert differences(await bench.tree(top), model(stack[:height])) == []


async def test_150_layers(bench: Bench) -> None:
    stack = [Layer({b"bottom": file(b"b"), b"over": file(b"0"), b"add": DIRECTORY})]
    for number in range(1, 150):
        text = b"%d" % number
        opaques = (b"only",) if number % 50 == 0 else ()
        stack.append(
            Layer(
                {b"over": file(text), b"add/%d" % number: file(b"s"), b"only/" + text: file(b"o")},
                opaques=opaques,
            )
        )
    top = await bench.stack(stack)
    assert differences(await bench.tree(top), model(stack)) == []
    with shown(await bench.snapshotter.view("writable", top, writable=True)) as directory:
        (directory / "add/7").unlink()
        assert len(os.listdir(directory / "add")) == 148


async def test_whiteouts_leave_no_trace_where_one_layer_is_mounted(bench: Bench) -> None:
    """The kernel shows whiteouts of a directory that only one layer has."""
    stack = [
        Layer({b"a/x": FILE}, whiteouts=(b"a/gone", b"gone")),
        Layer({b"b/x": FILE}, whiteouts=(b"b/gone",), opaques=(b"b",)),
    ]
    top = await bench.stack(stack)
    path = await bench.snapshotter.path(top)
    tree = await bench.tree(top)
    assert not [name for name in tree if name.endswith(b"gone")]
    with mounted(path) if path.is_file() else contextlib.nullcontext(path) as layer:
        assert "gone" not in os.listdir(layer / "b")
