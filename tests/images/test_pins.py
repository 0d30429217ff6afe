"""Pins, by clients and by the configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cri_imaged.errors import (
    InUseError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
from cri_imaged.images import pinning
from cri_imaged.images.events import Event, ImageKnown
from cri_imaged.images.pinning import Pinner
from cri_imaged.oci.pattern import NamePattern
from tests.images.workbench import Bench, image_of, layer, serve
from tests.support.registry import FaultRegistry


@asynccontextmanager
async def opened(root: Path, registry: FaultRegistry) -> AsyncIterator[tuple[Bench, Pinner]]:
    pattern = NamePattern.parse(f"{registry.authority}/library/demo:configured-*")
    async with Bench.open(root, registry, pinned_images={"some": pattern}) as bench:
        base = bench.parts.base
        yield bench, Pinner(base.stores.database, base.pins, base.publisher)


def pinned(bench: Bench) -> set[str]:
    """The tags of the images that are pinned."""
    images = bench.parts.store.all()
    return {name.rpartition(":")[2] for each in images if each.pinned for name in each.repo_tags}


async def test_a_pin_outlasts_restarts_removal_and_a_tag_that_moves(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(0)), "a")
    serve(registry, image_of(layer(1)), "b")
    async with opened(tmp_path, registry) as (bench, pinner):
        for tag in "ab":
            await bench.pull(tag)
        with pytest.raises(NotFoundError, match="pull it"):
            await pinner.pin(bench.name("c"))
        assert (await pinner.pin(bench.name("a"))).pinned
        assert pinned(bench) == {"a"}
    serve(registry, image_of(layer(2)), "a")
    async with opened(tmp_path, registry) as (bench, pinner):
        assert pinned(bench) == {"a"}
        old = bench.parts.store.get(bench.name("a"))
        moved = await bench.pull("a")
        assert old is not None
        assert old.id != moved.image.id
        assert pinned(bench) == {"a"}
        kept = bench.parts.store.get(old.id)
        assert kept is not None
        assert not kept.pinned, "the pin went with the tag"
        await bench.parts.remover.remove(bench.name("a"))
        await bench.pull("a")
        assert pinned(bench) == {"a"}
        await bench.parts.remover.remove(bench.name("a"))
        await pinner.unpin(bench.name("a"))
        with pytest.raises(NotFoundError, match="nor a pin"):
            await pinner.unpin(bench.name("a"))


async def test_any_name_takes_all_pins_back(tmp_path: Path, registry: FaultRegistry) -> None:
    serve(registry, image_of(layer(0)), "a")
    async with opened(tmp_path, registry) as (bench, pinner):
        pulled = await bench.pull("a")
        for name in (pulled.image.id[:20], bench.name("a"), pulled.repo_digest):
            await pinner.pin(name)
        assert {row[0] for row in bench.rows("SELECT name FROM pins")} == {
            pulled.image.id,
            bench.name("a"),
            pulled.repo_digest,
        }
        await pinner.unpin(pulled.image.id)
        assert pinned(bench) == set()
        await pinner.unpin(bench.name("a"))
        with pytest.raises(InvalidRequestError):
            await pinner.unpin("UPPER")


async def test_what_the_configuration_pins_by_a_pattern_clients_cannot_unpin(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(0)), "configured-1")
    serve(registry, image_of(layer(1)), "plain")
    async with opened(tmp_path, registry) as (bench, pinner):
        for tag in ("configured-1", "plain"):
            await bench.pull(tag)
        assert pinned(bench) == {"configured-1"}
        with pytest.raises(InUseError, match="pinned_images"):
            await pinner.unpin(bench.name("configured-1"))
        bench.parts.base.pins.configure([])
        heard: list[Event] = []
        bench.parts.events.attach(heard.append)
        await bench.parts.base.publisher.repinned()
        assert pinned(bench) == set()
        assert [type(each) for each in heard] == [ImageKnown], "runtimes are told of it alone"


async def test_pins_are_limited(
    tmp_path: Path, registry: FaultRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "PINS", 1)
    serve(registry, image_of(layer(0)), "a")
    async with opened(tmp_path, registry) as (bench, pinner):
        await bench.pull("a")
        for _ in range(2):
            await pinner.pin(bench.name("a"))
        with pytest.raises(LimitExceededError, match="1 names"):
            await pinner.pin((await bench.pull("a")).image.id)
