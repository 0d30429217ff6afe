"""A check beside work that is going on: what others are at is neither damage nor litter."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from cri_imaged.config.options import ProxySnapshotter, RuntimePlatform
from cri_imaged.config.values import Directory, SocketPath
from cri_imaged.errors import QueueFullError
from cri_imaged.images.health.check import Problem
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support.proxy_snapshotter import ProxySnapshotter as Proxy
from tests.support.require import require_real


async def problems(bench: Bench, *, repair: bool = False) -> list[Problem]:
    """What a check finds."""
    events = [event async for event in bench.parts.checker.check(repair=repair)]
    return [event for event in events if isinstance(event, Problem)]


async def test_what_running_pulls_unpack_is_not_swept_away(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(0, 70_000), layer(1)))
    gate = registry.hold(put.layers[0].digest, 10_000)
    pull = bench.start()
    await registry.held(gate)
    begun = bench.root / "snapshots" / "native"
    await until(lambda: len(list(begun.iterdir())) == 2)
    assert await problems(bench) == []
    assert await problems(bench, repair=True) == []
    gate.opened.set()
    pulled = await pull
    assert set(await bench.tree(pulled.image.id)) == {"d", "d/0", "d/1", "top"}


async def test_one_check_runs_at_a_time(bench: Bench, registry: GatedRegistry) -> None:
    """It reads and unpacks all that is here: clients could keep a node busy for ever."""
    serve(registry, image_of(layer(0)))
    await bench.pull()
    first = bench.parts.checker.check(repair=False)
    await anext(first)
    with pytest.raises(QueueFullError, match="runs already"):
        await problems(bench)
    async for _ in first:
        pass
    assert await problems(bench) == []


async def test_all_that_is_damaged_is_hidden_before_the_first_is_mended(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Which may take long: here a registry that stalls."""
    puts = [serve(registry, image_of(layer(number, 70_000)), f"{number}") for number in range(2)]
    for number, put in enumerate(puts):
        await bench.pull(f"{number}")
        (bench.root / "content" / "blobs" / "sha256" / put.layers[0].digest[7:]).unlink()
    gate = registry.hold(puts[0].layers[0].digest)
    mending = asyncio.create_task(problems(bench, repair=True))
    await registry.held(gate)
    assert bench.shown() == set()
    gate.opened.set()
    found = await mending
    assert [(problem.kind, problem.repaired) for problem in found] == [("missing-blob", True)] * 2
    assert {bench.name("0"), bench.name("1")} <= bench.shown()


async def test_a_rebuild_that_is_cancelled_hides_no_whole_image(
    bench: Bench, registry: GatedRegistry
) -> None:
    """The quick check mends what is damaged: it would never look at such an image."""
    serve(registry, image_of(layer(0), layer(1)))
    await bench.pull()
    shown = bench.shown()
    top = max((bench.root / "snapshots" / "native").iterdir())
    await asyncio.to_thread(shutil.rmtree, top)
    check = asyncio.create_task(bench.parts.checker.quick())
    await until(lambda: not whole(bench))
    while not whole(bench):  # noqa: ASYNC110
        await asyncio.sleep(0)
    check.cancel()
    await asyncio.wait([check])
    await bench.parts.checker.quick()
    assert bench.shown() == shown


async def test_a_proxy_that_is_away_hides_no_loss_of_others(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    with ExitStack() as serving:
        proxy = serving.enter_context(Proxy(tmp_path / "p"))
        options = ProxySnapshotter(address=SocketPath(proxy.socket), root=Directory(proxy.root))
        async with Bench.open(
            tmp_path / "root",
            registry,
            proxies={"lazy": options},
            snapshotter="lazy",
            runtime_platforms={"eager": RuntimePlatform(snapshotter="native")},
        ) as bench:
            serve(registry, image_of(layer(0)))
            for handler in ("", "eager"):
                await bench.pull(handler=handler)
            await asyncio.to_thread(serving.close)
            kept = bench.root / "snapshots" / "native"
            await asyncio.to_thread(shutil.rmtree, only(kept))
            await bench.parts.checker.quick()
            assert only(kept), "it is made anew"


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def whole(bench: Bench) -> bool:
    """Whether the one image stands on a snapshot, as metadata says."""
    query = "SELECT * FROM images JOIN snapshots ON snapshots.id = snapshot WHERE chain_id NOT NULL"
    return bool(bench.rows(query))


async def test_an_image_is_not_shown_though_its_files_cannot_be_thrown_away(
    bench: Bench, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(0)))
    pulled = await bench.pull()
    (bench.root / "trash").rename(bench.root / "away")
    (bench.root / "trash").touch()
    with pytest.raises(NotADirectoryError):
        await bench.parts.remover.remove(pulled.image.id)
    assert bench.shown() == set()
    assert bench.rows("SELECT * FROM images") == []


async def test_images_of_a_snapshotter_whose_folder_is_gone_are_made_anew(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    require_real(os.geteuid() == 0, "overlay needs root")
    serve(registry, image_of(layer(0)))
    async with Bench.open(tmp_path, registry, snapshotter="overlay") as bench:
        name = (await bench.pull()).image.repo_tags[0]
    shutil.rmtree(tmp_path / "snapshots" / "overlay")
    async with Bench.open(tmp_path, registry) as bench:
        assert bench.shown() == set()
        await bench.parts.rebuilder.run()
        assert (await bench.tree(name))["top"] == b"0"
