"""Many pulls at once: one fetch for each blob, whoever asks; nobody suffers from another."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from cri_imaged.errors import Category, CorruptContentError, RegistryError
from cri_imaged.images.pull.puller import Pulled
from cri_imaged.ports import Credentials
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support import images
from tests.support.leaks import MARK
from tests.support.registry import BLOB, MANIFEST, BasicAuth, BearerAuth, Image, Seen, status

USERS = {user: f"{MARK}-{user}" for user in ("ann", "bob", "cid")}
GOOD = [Credentials(username=user, password=password) for user, password in USERS.items()]
WRONG = Credentials(username="ann", password=f"{MARK}-wrong")


def digest_of(seen: Seen) -> str:
    return seen.path.rpartition("/")[2]


def served(registry: GatedRegistry) -> Counter[str]:
    """How often each blob was served."""
    return Counter(digest_of(seen) for seen in registry.gets(BLOB) if seen.status in (200, 206))


def layers_served(registry: GatedRegistry, put: Image) -> dict[str, int]:
    found = served(registry)
    return {layer.digest: found[layer.digest] for layer in put.layers}


async def outcomes(pulls: list[asyncio.Task[Pulled]]) -> list[object]:
    return [
        result.category if isinstance(result, RegistryError) else getattr(result, "image", result)
        for result in await asyncio.gather(*pulls, return_exceptions=True)
    ]


@pytest.mark.parametrize("auth", [BasicAuth(USERS), BearerAuth(USERS, anonymous=False)])
async def test_32_pulls_with_4_credentials(
    bench: Bench, registry: GatedRegistry, auth: BasicAuth | BearerAuth
) -> None:
    put = serve(registry, image_of(*(layer(number, 100_000) for number in range(6))))
    registry.auth = auth
    pulls = [bench.start(credentials=[*GOOD, WRONG][number % 4]) for number in range(32)]
    found = await outcomes(pulls)
    (image,) = bench.parts.store.all()
    assert found == [Category.UNAUTHENTICATED if n % 4 == 3 else image for n in range(32)]
    assert layers_served(registry, put) == {layer.digest: 1 for layer in put.layers}
    assert bench.leases() == []
    await bench.parts.remover.remove(image.id)
    await bench.nothing_is_left()


async def test_no_more_layers_of_an_image_come_at_a_time_than_configured(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(*(layer(number) for number in range(4))))
    gates = [registry.hold(each.digest) for each in put.layers]
    async with Bench.open(tmp_path, registry, max_concurrent_downloads=3) as bench:
        pull = bench.start()
        await until(lambda: sum(gate.waiting for gate in gates) == 3)
        await bench.pull_and_remove(registry)
        assert sum(gate.waiting for gate in gates) == 3, "while another whole pull went by"
        first = next(gate for gate in gates if gate.waiting)
        first.opened.set()
        await until(lambda: all(gate.waiting or gate is first for gate in gates))
        for gate in gates:
            gate.opened.set()
        await pull


async def test_the_config_is_fetched_once_too(bench: Bench, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(0)))
    gate = registry.hold(put.config.digest, 1)
    pulls = [bench.start() for _ in range(4)]
    await registry.held(gate)
    await until(lambda: len(registry.gets(MANIFEST)) == 4)
    for _ in range(50):
        await asyncio.sleep(0.002)
    gate.opened.set()
    await asyncio.gather(*pulls)
    assert served(registry)[put.config.digest] == 1


async def test_the_pull_that_began_each_fetch_goes_away_half_way(
    bench: Bench, registry: GatedRegistry
) -> None:
    """The next one carries on at the offset reached, and no byte is fetched twice."""
    put = serve(registry, image_of(*(layer(number, 200_000) for number in range(3))))
    registry.auth = BasicAuth(USERS)
    gates = [registry.hold(each.digest, 100_000) for each in put.layers]
    first = bench.start(credentials=GOOD[0])
    for gate in gates:
        await registry.held(gate)
    others = [bench.start(credentials=[*GOOD, WRONG][n % 4]) for n in range(1, 32)]
    await until(lambda: len(bench.parts.running.list()) == 24)
    (watched,) = [p for p in bench.parts.running.list() if p.id == "1"]
    await until(lambda: all(each.fetched == 100_000 for each in watched.layers))
    first.cancel()
    await asyncio.wait([first])
    for gate in gates:
        gate.opened.set()
    found = await outcomes(others)
    (image,) = bench.parts.store.all()
    assert found == [Category.UNAUTHENTICATED if n % 4 == 3 else image for n in range(1, 32)]
    assert layers_served(registry, put) == {layer.digest: 2 for layer in put.layers}
    again = [seen.offset for seen in registry.gets(BLOB) if seen.status == 206]
    assert again == [100_000] * 3
    received = {p.result().received for p in others if not p.exception()}
    # Who began when all was here received nothing.
    assert received - {0} == {sum(each.size for each in put.layers)}
    assert "pull" not in bench.leases()


async def test_credentials_that_do_not_reach_blobs_fail_their_pull_alone(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Resolving goes well for both; the registry refuses the layer to the first."""
    put = serve(registry, image_of(layer(0, 100_000)))
    registry.faults.append(status(403, where=BLOB, reference=put.layers[0].digest, times=1))
    gate = registry.hold(put.config.digest)
    pulls = [bench.start(), bench.start()]
    await until(lambda: gate.waiting == 1 and len(registry.gets(MANIFEST)) == 2)
    gate.opened.set()
    found = await outcomes(pulls)
    (image,) = bench.parts.store.all()
    assert Category.PERMISSION_DENIED in found
    assert image in found


async def test_a_pull_that_goes_away_takes_no_other_image_with_it(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """Two images share a layer. The second waits for its turn to fetch it, and unpacks what the
    first one fetches; then the first one goes away."""
    shared, big = layer(0, 100_000), layer(1, 500_000)
    mine = serve(registry, image_of(shared), "mine")
    yours = serve(registry, image_of(shared, big), "yours")
    held = registry.hold(mine.layers[0].digest, 50_000)
    busy = registry.hold(yours.layers[1].digest, 100)
    async with Bench.open(tmp_path, registry, max_concurrent_downloads=1) as bench:
        first = bench.start("mine")
        await registry.held(held)
        second = bench.start("yours")
        await registry.held(busy)
        await until(lambda: bench.rows("SELECT * FROM snapshots WHERE key IS NOT NULL"))
        first.cancel()
        await asyncio.wait([first])
        held.opened.set()
        busy.opened.set()
        pulled = await second
        assert bench.shown() == {bench.name("yours"), pulled.repo_digest}
        assert served(registry)[mine.layers[0].digest] == 2


async def test_what_came_since_the_plan_is_not_fetched_again(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    shared, big = layer(0, 100_000), layer(1, 500_000)
    serve(registry, image_of(shared), "mine")
    yours = serve(registry, image_of(shared, big), "yours")
    busy = registry.hold(yours.layers[1].digest, 100)
    async with Bench.open(tmp_path, registry, max_concurrent_downloads=1) as bench:
        second = bench.start("yours")
        await registry.held(busy)
        await bench.pull("mine")
        busy.opened.set()
        pulled = await second
        assert served(registry)[yours.layers[0].digest] == 1
        assert (await bench.tree(pulled.image.id))["top"] == b"1"


async def test_a_layer_that_two_images_have_under_other_parents(
    bench: Bench, registry: GatedRegistry
) -> None:
    a, b, c = layer(0), layer(1), layer(2)
    put = serve(registry, image_of(a, c), "x")
    serve(registry, image_of(b, c), "y")
    await asyncio.gather(bench.pull("x"), bench.pull("y"))
    assert served(registry)[put.layers[1].digest] == 1
    assert set(await bench.tree(bench.name("x"))) == {"d", "d/0", "d/2", "top"}
    assert set(await bench.tree(bench.name("y"))) == {"d", "d/1", "d/2", "top"}


async def test_a_bad_layer_is_refused_to_all_and_worked_on_once(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(images.with_wrong_diff_id(layer(0, 100_000))))
    found = await outcomes([bench.start() for _ in range(8)])
    assert all(isinstance(each, CorruptContentError) for each in found)
    assert bench.parts.store.all() == []
    assert layers_served(registry, put) == {put.layers[0].digest: 1}
    await bench.nothing_is_left()


async def test_a_manifest_that_lies_about_a_size_harms_no_other_pull(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(0, 100_000))
    put = serve(registry, image, "good")
    document = json.loads(image.manifest)
    document["layers"][0]["size"] -= 10
    registry.add_manifest("library/demo", "bad", images.MANIFEST, json.dumps(document).encode())
    gate = registry.hold(put.layers[0].digest, 1000)
    bad = bench.start("bad")
    await registry.held(gate)
    good = bench.start("good")
    await until(lambda: len(bench.parts.running.list()) == 2)
    await until(lambda: all(pull.layers for pull in bench.parts.running.list()))
    gate.opened.set()
    found = await outcomes([bad, good])
    assert found[1] == bench.parts.store.get(bench.name("good"))


async def test_registries_that_stall_hold_up_no_other_pull(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """More layers hang in mid-air than workers may wait for them."""
    stalled = [[layer(3 * pull + number, 10_000) for number in range(3)] for pull in range(3)]
    for number, layers in enumerate(stalled):
        for each in serve(registry, image_of(*layers), f"slow{number}").layers:
            registry.hold(each.digest, 1000)
    serve(registry, image_of(layer(10), layer(11)), "quick")
    async with Bench.open(tmp_path, registry, max_concurrent_unpacks=1) as bench:
        slow = [bench.start(f"slow{number}") for number in range(3)]
        for gate in registry.gates.values():
            await registry.held(gate)
        assert (await bench.pull("quick")).image
        assert not any(pull.done() for pull in slow)
        for gate in registry.gates.values():
            gate.opened.set()
        await asyncio.gather(*slow)


async def test_a_pull_of_many_layers_holds_up_no_other_pull(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    """All blobs are here. The layers of one pull want a worker at once, and the other pull's gets
    one before they have all had theirs."""
    serve(registry, image_of(*(layer(number, 100_000) for number in range(60))), "many")
    serve(registry, image_of(layer(100)), "one")
    snapshots = tmp_path / "snapshots/native"
    async with Bench.open(tmp_path, registry, max_concurrent_unpacks=1) as bench:
        for tag in ("many", "one"):
            await bench.pull(tag)
        shutil.rmtree(snapshots)
        snapshots.mkdir()
        many = bench.start("many")
        await until(lambda: len(list(snapshots.glob("*/fs"))) == 60)
        await bench.pull("one")
        assert [top for top in snapshots.glob("*/fs") if not list(top.iterdir())]
        await many


async def test_of_one_pull_few_layers_wait_for_those_below(
    bench: Bench, registry: GatedRegistry
) -> None:
    """Each waits with a result in memory and a file that is open."""
    serve(registry, image_of(layer(100)), "one")
    put = serve(registry, image_of(*(layer(number) for number in range(100))))
    gate = registry.hold(put.layers[0].digest)
    pull = bench.start()
    made = bench.root / "snapshots/native"
    await registry.held(gate)
    await until(lambda: len(list((bench.root / "content/blobs/sha256").iterdir())) >= 99)
    await until(lambda: len(list(made.glob("*/fs/top"))) >= 63)
    await bench.pull("one")
    assert len(list(made.glob("*/fs/top"))) == 64
    gate.opened.set()
    await pull
    assert len(list(made.glob("*/fs"))) == 101


@pytest.mark.parametrize("seed", range(6))
async def test_any_crowd(bench: Bench, registry: GatedRegistry, seed: int) -> None:
    """Overlapping images, pulled and given up at any moment, removed and collected meanwhile."""
    chance = random.Random(seed)
    layers = [layer(number, chance.choice([100, 50_000])) for number in range(6)]
    for number in range(4):
        chosen = chance.sample(layers, chance.randrange(1, 5))
        serve(registry, image_of(*chosen, Env=[f"N={number}"]), str(number))

    async def client(dice: random.Random) -> None:
        for _ in range(4):
            tag = str(dice.randrange(4))
            pull = bench.start(tag)
            if dice.random() < 0.5:
                await asyncio.wait([pull], timeout=dice.random() * 0.1)
                pull.cancel()
            await asyncio.wait([pull])
            if not pull.cancelled():
                pull.result()
            if dice.random() < 0.2:
                await bench.parts.remover.remove(bench.name(tag))
            elif dice.random() < 0.2:
                await bench.parts.collector.collect(resumable=True)

    async with asyncio.timeout(60):
        await asyncio.gather(*(client(random.Random(chance.random())) for _ in range(12)))
    for image in bench.parts.store.all():
        assert await bench.tree(image.id)
    for number in range(4):
        await bench.pull(str(number))
    for image in bench.parts.store.all():
        await bench.parts.remover.remove(image.id)
    await bench.nothing_is_left()
