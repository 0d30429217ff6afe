"""Generated stacks of layers: both snapshotters show what the model says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.snapshots.conftest import require_snapshotter
from tests.snapshots.model import (
    BASE_TIME,
    PRIVILEGED,
    Layer,
    Node,
    Tree,
    differences,
    merge,
    parents,
)
from tests.snapshots.workbench import CLASSES, Bench, memory, model, scratch

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\n d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
TIMES = st.integers(0, 10**6).map(lambda tick: BASE_TIME + tick * 1_000_003)
OWNERS = st.sampled_from([0, 1, 1000, 65534, 2**31 + 5])
MODES = st.sampled_from([0o755, 0o700, 0o555, 0o000, 0o1777, 0o2755, 0o644, 0o311])
FILE_MODES = st.sampled_from([0o644, 0o600, 0o000, 0o4755, 0o2755, 0o444])
XATTRS = st.sampled_from([(), (("user.a", b"1"),), (("user.a", b"2"), ("user.b", b"\0\xff"))])
CAPABILITY = (("security.capability", bytes.fromhex("0100000200200000000000000000000000000000")),)
TARGETS = st.sampled_from([b"a", b"../..", b"/", b"b/c", b"/a/b", b"nowhere"])


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    kinds = ["directory"] * 4 + ["file"] * 4 + ["symlink", "fifo"] + ["device"] * PRIVILEGED
    kind = draw(st.sampled_from(kinds))
    uid, gid = draw(OWNERS), draw(OWNERS)
    mtime = draw(TIMES)
    if kind == "directory":
        return Node(kind, draw(MODES), uid, gid, mtime, xattrs=draw(XATTRS))
    if kind == "file":
        xattrs = draw(st.one_of(XATTRS, st.just(CAPABILITY))) if PRIVILEGED else draw(XATTRS)
        content = draw(st.binary(max_size=20))
        return Node(kind, draw(FILE_MODES), uid, gid, mtime, content, xattrs, object())
    if kind == "symlink":
        return Node(kind, 0o777, uid, gid, mtime, draw(TARGETS), file=object())
    if kind == "device":
        rdev = str(os.makedev(1, draw(st.integers(3, 9)))).encode()
        return Node(kind, 0o640, uid, gid, mtime, rdev, file=object())
    return Node(kind, draw(FILE_MODES), uid, gid, mtime, file=object())


@st.composite
def layers(draw: st.DrawFn, below: Tree) -> Layer:
    """A layer that an applier may report on top of `below`."""
    entries: Tree = {}

    def fits(path: bytes) -> bool:
        taken = {*entries, *hardlinks, *links}
        directories = {above for other in taken for above in parents(other)}
        if path in taken or path in directories:
            return False
        return all(
            above not in taken or (above in entries and entries[above].kind == "directory")
            for above in parents(path)
        )

    hardlinks: dict[bytes, bytes] = {}
    links: dict[bytes, bytes] = {}
    if draw(st.booleans()):
        entries[b""] = Node("directory", draw(MODES), 0, 0, draw(TIMES), xattrs=draw(XATTRS))
    for path in draw(st.lists(PATHS, max_size=8)):
        if fits(path):
            entries[path] = draw(nodes())
    files = [path for path, node in entries.items() if node.kind != "directory"]
    for path in draw(st.lists(PATHS, max_size=2)):
        if files and fits(path):
            hardlinks[path] = draw(st.sampled_from(files))
    lower = sorted(p for p, node in below.items() if node.kind != "directory" and p not in entries)
    for path in draw(st.lists(PATHS, max_size=3)):
        if lower and fits(path):
            links[path] = draw(st.sampled_from([*lower, *links]))
    own = {*entries, *hardlinks, *links}
    above = {directory for path in own for directory in parents(path)}
    candidates = st.one_of(PATHS, st.sampled_from(sorted(below))) if below else PATHS
    whiteouts = set()
    for path in draw(st.lists(candidates, max_size=4)):
        if path and path not in above and fits(path):
            whiteouts.add(path)
    # A whiteout below a whiteout says nothing, and an applier's directory would undo the upper.
    whiteouts = {p for p in whiteouts if not any(up in whiteouts for up in parents(p))}
    directories = sorted(above | {p for p, node in entries.items() if node.kind == "directory"})
    opaques = draw(st.lists(st.sampled_from(directories), max_size=2, unique=True)) if own else []
    return Layer(entries, hardlinks, tuple(sorted(whiteouts)), tuple(opaques), tuple(links.items()))


@st.composite
def stacks(draw: st.DrawFn) -> list[Layer]:
    stack: list[Layer] = []
    tree: Tree = {}
    for _ in range(draw(st.integers(1, 5))):
        stack.append(draw(layers(tree)))
        tree = merge(tree, stack[-1])
    return stack


async def mismatches(name: str, stack: Sequence[Layer]) -> list[str]:
    with scratch(memory()) as root:
        async with Bench.open(root, name) as bench:
            top = await bench.stack(stack)
            return differences(await bench.tree(top), model(stack))


@pytest.mark.parametrize("name", sorted(CLASSES))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(stack=stacks())
def test_a_stack_shows_what_the_model_says(name: str, stack: list[Layer]) -> None:
    require_snapshotter(name)
    assert asyncio.run(mismatches(name, stack)) == []
