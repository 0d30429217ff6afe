"""`discard_unpacked_layers`: layers' blobs go when their snapshots are safe, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from cri_imaged.trash import remove_tree
from tests.support import oracle
from tests.support.images import sha256
from tests.support.killpoints import Order
from tests.support.oracle import Oracle
from tests.support.process import wait_until
from tests.support.store import contents
from tests.survival.conftest import SEED, Scratch
from tests.survival.samples import family
from tests.survival.store import Store
from tests.survival.victim import Source, Victim

pytestmark = pytest.mark.real


@pytest.fixture(params=["overlay", "native", "erofs"])
def thrifty(request: pytest.FixtureRequest, scratch: Scratch, source: Source) -> Iterator[Store]:
    """A store with discard_unpacked_layers, once all layers' blobs are gone."""
    options = "discard_unpacked_layers = true"
    victim = Victim(scratch("thrift"), snapshotter=request.param, image_options=options)
    try:
        store = Store(victim, source)
        wait_until(lambda: discarded(store), "the blobs are discarded", victim.process)
        yield store
    finally:
        if victim.process.running:
            victim.kill()


def layer_digests(store: Store) -> set[str]:
    return {sha256(each.blob) for sample in store.samples for each in sample.image.layers}


def discarded(store: Store) -> bool:
    return not any(store.blob(digest).exists() for digest in layer_digests(store))


def test_images_without_their_blobs_go_on(thrifty: Store) -> None:
    """Status, a restart, another pull (which fetches nothing), check, a kill, removal."""
    assert thrifty.shown_whole() == thrifty.ids
    thrifty.source.registry.seen.clear()
    thrifty.pull_all()
    assert thrifty.fetched() == set()
    thrifty.victim.stop()
    thrifty.victim.start()
    assert thrifty.shown_whole() == thrifty.ids
    assert thrifty.victim.cli("check").returncode == 0
    thrifty.victim.kill()
    thrifty.victim.start()
    thrifty.pull_all()
    assert thrifty.fetched() == set()
    assert thrifty.shown_whole() == thrifty.ids
    assert discarded(thrifty)
    for each in thrifty.victim.images():
        thrifty.victim.remove(each.id)
    oracle.collect(thrifty.victim)
    left = contents(thrifty.victim.root)
    assert {name: n for name, n in left.rows.items() if n and name != "epoch"} == {}
    assert thrifty.snapshots() == []


def test_another_boot_believes_snapshots_whose_blobs_are_gone(thrifty: Store) -> None:
    thrifty.victim.kill()
    thrifty.victim.boot_id = "00000000-0000-4000-8000-000000000001"
    thrifty.source.registry.seen.clear()
    thrifty.victim.start()
    assert thrifty.shown_whole() == thrifty.ids
    assert thrifty.fetched() == set()


def test_a_snapshot_whose_blob_was_discarded_is_fetched_again(thrifty: Store) -> None:
    remove_tree(thrifty.snapshots()[0])
    thrifty.pull_all()
    assert thrifty.shown_whole() == thrifty.ids
    wait_until(lambda: discarded(thrifty), "the blobs are discarded", thrifty.victim.process)
    assert thrifty.shown_whole() == thrifty.ids


@pytest.mark.parametrize("nth", [1, 3])
def test_killed_while_discarding(scratch: Scratch, source: Source, nth: int) -> None:
    options = "discard_unpacked_layers = true"
    victim = Victim(scratch("thrift"), image_options=options)
    try:
        place = source.place()
        samples = family(SEED)
        reference = source.add(samples[2], f"{place}/s:1")
        victim.start()
        victim.obey(Order("something is renamed into the trash", nth))
        with suppress(grpc.RpcError):
            victim.pull(reference)
        victim.await_death("while discarding")
        victim.start()
        assert Oracle(samples).check(victim) == {samples[2].image.id}
        assert victim.pull(reference) == samples[2].image.id
    finally:
        victim.kill()
