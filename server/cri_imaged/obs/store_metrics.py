"""What Prometheus is told of the store and its disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """The store as it was measured last."""

    objects: Mapping[str, int]
    """How many there are, by kind."""
    bytes: Mapping[str, int]
    """What they take on the disk, by kind."""
    free: int
    """Bytes that are free on the disk."""
    reserve: int
    """Bytes that pulls leave free."""


class StoreMetrics:
    """Gauges that show what was measured last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._objects = Gauge(
            "cri_imaged_store_objects",
            "What is in the store, by kind.",
            ["kind"],
            registry=registry,
        )
        self._bytes = Gauge(
            "cri_imaged_store_bytes",
            "Bytes on disk of what is in the store, by kind.",
            ["kind"],
            registry=registry,
        )
        self._free = Gauge(
            "cri_imaged_disk_free_bytes", "Bytes free on the store's disk.", registry=registry
        )
        self._reserve = Gauge(
            "cri_imaged_disk_reserve_bytes",
            "Bytes that pulls leave free on the store's disk.",
            registry=registry,
        )
        self._waiting = Gauge(
            "cri_imaged_pulls_waiting", "Image pulls that wait for their turn.", registry=registry
        )

    def waiting(self, count: Callable[[], int]) -> None:
        """Ask `count` at each scrape how many pulls wait."""
        self._waiting.set_function(count)

    def show(self, figures: StoreFigures) -> None:
        """Show these from now on."""
        for kind, number in figures.objects.items():
            self._objects.labels(kind).set(number)
        for kind, size in figures.bytes.items():
            self._bytes.labels(kind).set(size)
        self._free.set(figures.free)
        self._reserve.set(figures.reserve)
