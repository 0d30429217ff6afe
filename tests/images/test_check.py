"""A check beside work that is going on: what others are at is neither damage nor litter."""

from __future__ import annotations

from cri_imaged.images.check import Problem
from tests.images.bench import Bench, image_of, layer, serve, until
from tests.images.gated import GatedRegistry


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
