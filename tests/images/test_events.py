"""The event bus: whoever listens hears what happens to images and pulls, and hurts nobody."""

from __future__ import annotations

import asyncio

import pytest

from cri_imaged.errors import RegistryError
from cri_imaged.images.events import (
    Event,
    Events,
    GarbageCollected,
    ImageGone,
    ImageKnown,
    PullBegan,
    PullEnded,
    Stopping,
)
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve


def kinds(heard: list[Event]) -> list[str]:
    return [type(event).__name__ for event in heard if type(event).__name__ != "PullProgressed"]


async def test_a_listener_from_outside_hears_of_a_pull_and_a_removal(
    bench: Bench, registry: GatedRegistry
) -> None:
    heard: list[Event] = []
    bench.parts.events.attach(heard.append)
    serve(registry, image_of(layer(0)))
    pulled = await bench.pull()
    await bench.parts.remover.remove(pulled.image.id)
    assert kinds(heard) == ["PullBegan", "ImageKnown", "PullEnded", "GarbageCollected", "ImageGone"]
    began, known, ended, collected, gone = [
        e for e in heard if type(e).__name__ != "PullProgressed"
    ]
    assert isinstance(began, PullBegan)
    assert isinstance(known, ImageKnown)
    assert isinstance(ended, PullEnded)
    assert isinstance(gone, ImageGone)
    assert isinstance(collected, GarbageCollected)
    assert (collected.blobs, collected.snapshots) == (3, 1)
    assert (known.image.id, gone.image.id) == (pulled.image.id, pulled.image.id)
    assert (ended.pull, ended.report.outcome) == (began.pull, "success")
    assert ended.report.image_id == pulled.image.id
    assert ended.report.received == pulled.received


async def test_how_a_pull_failed_is_told(bench: Bench, registry: GatedRegistry) -> None:
    heard: list[Event] = []
    bench.parts.events.attach(heard.append)
    with pytest.raises(RegistryError):
        await bench.pull("nowhere")
    ended = heard[-1]
    assert isinstance(ended, PullEnded)
    assert (ended.report.outcome, ended.report.reason) == ("failure", "not_found")


async def test_a_cancelled_pull_is_told_as_such(bench: Bench, registry: GatedRegistry) -> None:
    heard: list[Event] = []
    bench.parts.events.attach(heard.append)
    put = serve(registry, image_of(layer(0, 10_000)))
    gate = registry.hold(put.layers[0].digest, 100)
    pull = bench.start()
    await registry.held(gate)
    pull.cancel()
    await asyncio.wait([pull])
    assert isinstance(heard[-1], PullEnded)
    assert heard[-1].report.outcome == "cancelled"


def test_a_listener_that_fails_hurts_nobody() -> None:
    events, heard = Events(), list[Event]()

    def broken(_: Event) -> None:
        raise ValueError

    events.attach(broken)
    events.attach(heard.append)
    events.publish(Stopping())
    assert heard == [Stopping()]


async def test_a_slow_subscriber_loses_events_and_knows_how_many() -> None:
    events = Events()
    with events.subscribe(waiting=2) as slow:
        for number in range(5):
            events.publish(PullBegan(str(number), "a", ""))
        assert slow.dropped == 3
        found = aiter(slow)
        assert [(await anext(found)).pull for _ in range(2)] == ["0", "1"]  # type: ignore[union-attr]
    events.publish(Stopping())
    assert slow.dropped == 3
