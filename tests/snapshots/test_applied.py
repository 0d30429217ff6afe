"""Layers as archives, through the real applier into both snapshotters."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.digest import Digest
from tests.layers.sources import Whole, described
from tests.snapshots.conftest import require_snapshotter
from tests.snapshots.model import Layer, Node, Tree, differences, merge, parents, scan
from tests.snapshots.test_differential import stacks
from tests.snapshots.workbench import CLASSES, Bench, memory, model, scratch, shown
from tests.support import tarballs


class Machine:
    """One event loop with one warm worker pool."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.pool = WorkerPool(Limits(), max_workers=2)

    async def unpack(self, bench: Bench, archives: Sequence[Path]) -> Digest:
        """Apply archives independently, then seal them in order."""
        done = await asyncio.gather(
            *(self._apply(bench, number, path) for number, path in enumerate(archives))
        )
        top: Digest | None = None
        for number, applied in enumerate(done):
            parent, top = top, Digest.of(f"{number}".encode())
            await bench.commit(top, f"key-{number}", parent, applied)
        assert top is not None
        return top

    async def _apply(self, bench: Bench, number: int, archive: Path):  # type: ignore[no-untyped-def]
        into = await bench.snapshotter.prepare(f"key-{number}", None, bench.lease)
        return await self.pool.apply(Whole(archive), described(media_types.OCI_LAYER), into)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with asyncio.Runner() as runner:
        machine = Machine(runner)
        runner.run(machine.pool.__aenter__())
        try:
            yield machine
        finally:
            runner.run(machine.pool.__aexit__(None, None, None))


def as_archived(stack: Sequence[Layer]) -> list[Layer]:
    """The layers without what their archives would say otherwise."""
    honest: list[Layer] = []
    tree: Tree = {}
    for layer in stack:
        honest.append(_as_archived(layer, tree))
        tree = merge(tree, honest[-1])
    return honest


def _as_archived(layer: Layer, tree: Tree) -> Layer:
    """One layer on top of `tree`.

    A hardlink's target is looked up among the layer's own names first, through its own symlinks.
    Opaque directories are entries: what a directory inherits that is both implicit and opaque is
    the applier's to say.
    """
    entries = dict(layer.entries)
    for path in layer.opaques:
        entries.setdefault(path, Node("directory", 0o755, 0, 0))
    if b"" in entries:  # of the root, an archive says the time alone
        entries[b""] = Node("directory", 0o755, 0, 0, entries[b""].mtime)
    plain = {path for path, node in entries.items() if node.kind != "directory"}
    plain |= {*layer.hardlinks, *dict(layer.links)}
    named = {*entries, *plain}
    own = {above for path in named for above in parents(path)} | {*entries, *layer.hardlinks}
    links: dict[bytes, bytes] = {}
    for name, target in layer.links:
        if target in links or (
            target in tree
            and tree[target].kind != "directory"
            and target not in own
            and target not in dict(layer.links)
            and not plain & {*parents(target)}
        ):
            links[name] = target
    return replace(layer, entries=entries, links=tuple(links.items()))


def archived(layer: Layer, below: Tree, order: random.Random) -> bytes:
    """The layer on top of the tree `below` as an archive, in an order that does not matter to what
    it means."""
    parts = [entry(path, node) for path, node in layer.entries.items()]
    for path in layer.whiteouts:
        above, slash, name = path.rpartition(b"/")
        parts.append(tarballs.file(above + slash + b".wh." + name))
    parts += [
        tarballs.file(path + b"/.wh..wh..opq" if path else b".wh..wh..opq")
        for path in layer.opaques
    ]
    order.shuffle(parts)
    # A hardlink comes after its target.
    for name, target in layer.hardlinks.items():
        parts.append(tarballs.hardlink(name, target, **attributes(layer.entries[target])))
    known = dict(below)
    for name, target in layer.links:
        known[name] = known[target]
        parts.append(tarballs.hardlink(name, target, **attributes(known[name])))
    return tarballs.archive(*parts)


def attributes(node: Node) -> dict[str, Any]:
    seconds, nanoseconds = divmod(node.mtime or 0, 10**9)
    pax: dict[str, str | bytes] = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    pax |= {f"SCHILY.xattr.{key}": value for key, value in node.xattrs}
    return {"mode": node.mode, "uid": node.uid, "gid": node.gid, "pax": pax}


def entry(path: bytes, node: Node) -> bytes:
    common = attributes(node)
    match node.kind:
        case "directory":
            return tarballs.directory(path or b".", **common)
        case "file":
            return tarballs.file(path, node.content, **common)
        case "symlink":
            return tarballs.symlink(path, node.content, **common)
        case "fifo":
            return tarballs.fifo(path, **common)
    number = int(node.content)
    return tarballs.entry(path, b"3", device=(os.major(number), os.minor(number)), **common)  # type: ignore[arg-type]


async def mismatches(
    machine: Machine, name: str, stack: Sequence[Layer], order: random.Random
) -> list[str]:
    with scratch(memory()) as root:
        archives = [root / f"{number}.tar" for number in range(len(stack))]
        tree: Tree = {}
        for path, layer in zip(archives, stack, strict=True):
            path.write_bytes(archived(layer, tree, order))
            tree = merge(tree, layer)
        async with Bench.open(root, name) as bench:
            top = await machine.unpack(bench, archives)
            return differences(await bench.tree(top), model(stack))


@pytest.mark.parametrize("name", sorted(CLASSES))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(stack=stacks(), order=st.randoms(use_true_random=False))
def test_archives_show_what_the_model_says(
    machine: Machine, name: str, stack: list[Layer], order: random.Random
) -> None:
    require_snapshotter(name)
    assert machine.runner.run(mismatches(machine, name, as_archived(stack), order)) == []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_hardlinks_through_links_of_a_layer_below(machine: Machine, name: str) -> None:
    """What they lead to may be a file of the hardlink's own layer."""
    require_snapshotter(name)
    layers = [
        tarballs.archive(
            tarballs.symlink("lib", "usr/lib"),
            *(tarballs.file(f"usr/lib/{each}", b"below") for each in ("kept", "new")),
        ),
        tarballs.archive(
            tarballs.file("usr/lib/new", b"above"),
            tarballs.file("usr/lib/only", b"above"),
            *(tarballs.hardlink(f"as-{each}", f"lib/{each}") for each in ("kept", "new", "only")),
            tarballs.hardlink("again", "lib/only"),
        ),
    ]

    async def unpacked(root: Path) -> Tree:
        archives = [root / f"{number}.tar" for number in range(len(layers))]
        for path, layer in zip(archives, layers, strict=True):
            path.write_bytes(layer)
        async with Bench.open(root, name) as bench:
            return await bench.tree(await machine.unpack(bench, archives))

    with scratch(memory()) as root:
        tree = machine.runner.run(unpacked(root))
    found = {path: tree[path].content for path in (b"as-kept", b"as-new", b"as-only", b"again")}
    assert found == {
        b"as-kept": b"below",
        b"as-new": b"above",
        b"as-only": b"above",
        b"again": b"above",
    }
    assert tree[b"again"].file == tree[b"usr/lib/only"].file


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_installed_tree_is_what_tar_extracts(
    machine: Machine, name: str, tmp_path: Path
) -> None:
    """Some thousand files of this environment, and 39 layers that change some of them."""
    require_snapshotter(name)
    base = Path(sysconfig.get_path("purelib"))
    expected = tmp_path / "expected"
    expected.mkdir()
    archives = [tmp_path / "0.tar"]
    packages = ["pip", "pytest", "_pytest", "hypothesis", "aiohttp", "rich"]
    tar = ["tar", "--format=posix", "-C", base, "-cf", archives[0]]
    subprocess.run([*tar, *(each for each in packages if (base / each).exists())], check=True)
    for number in range(1, 40):
        changes = tmp_path / f"changes-{number}"
        (changes / "rich").mkdir(parents=True)
        (changes / "rich/__init__.py").write_text(f"# {number}\n")
        (changes / f"rich/new-{number}.py").write_text(f"# {number}\n")
        archives.append(tmp_path / f"{number}.tar")
        subprocess.run(["tar", "-C", changes, "-cf", archives[-1], "rich"], check=True)
    for path in archives:
        subprocess.run(["tar", "-C", expected, "-xpf", path], check=True)

    async def compare() -> list[str]:
        async with Bench.open(tmp_path, name) as bench:
            top = await machine.unpack(bench, archives)
            wanted = scan(expected)
            wanted[b""] = replace(wanted[b""], mode=0o755, mtime=None)
            with shown(await bench.snapshotter.view("view", top)) as directory:
                return differences(scan(directory), wanted)

    assert machine.runner.run(compare()) == []
