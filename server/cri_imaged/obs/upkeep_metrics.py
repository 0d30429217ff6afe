"""What Prometheus is told of collections and checks of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge


class UpkeepMetrics:
    """Those of what keeps the store in order."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._collections = Counter(
            "cri_imaged_collections",
            "Garbage collections, also those that found nothing.",
            registry=registry,
        )
        self._collected = Counter(
            "cri_imaged_collected_objects",
            "What garbage collections removed, by kind.",
            ["kind"],
            registry=registry,
        )
        self._collected_bytes = Counter(
            "cri_imaged_collected_bytes", "Bytes that they gave back.", registry=registry
        )
        self._checks = Counter(
            "cri_imaged_checks", "Checks of the store that came to their end.", registry=registry
        )
        self._problems = Counter(
            "cri_imaged_problems",
            "Problems that were found in the store, and images that lost files.",
            registry=registry,
        )
        self._repairs = Counter(
            "cri_imaged_repairs", "Problems that were mended.", registry=registry
        )
        self._open = Gauge(
            "cri_imaged_open_problems",
            "Problems that the last check found and did not mend.",
            registry=registry,
        )

        self._preloads = Gauge(
            "cri_imaged_preloads",
            "Archives and images that the node is to have before they are asked for, by state.",
            ["state"],
            registry=registry,
        )
        self._removed = Counter(
            "cri_imaged_images_removed",
            "Images that the node removed by image.gc, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in ("age", "size"):
            self._removed.labels(reason)

    def preloads(self, count: Callable[[str], int]) -> None:
        """Ask `count` at each scrape how many preloads are in a state."""
        for state in ("waiting", "working", "ready", "failed", "removed"):
            self._preloads.labels(state).set_function(partial(count, state))

    def removed(self, reason: str) -> None:
        """Count an image that went by the policy, by `age` or by `size`."""
        self._removed.labels(reason).inc()

    def collected(self, objects: Mapping[str, int], size: int) -> None:
        """Count a collection that removed so many `objects` of each kind, of `size` bytes."""
        self._collections.inc()
        for kind, count in objects.items():
            self._collected.labels(kind).inc(count)
        self._collected_bytes.inc(size)

    def checked(self, problems: int, repaired: int) -> None:
        """Count a check of the whole store."""
        self._checks.inc()
        self._open.set(problems - repaired)
        self.found(problems, repaired)

    def found(self, problems: int, repaired: int) -> None:
        """Count problems, and those of them that were mended."""
        self._problems.inc(problems)
        self._repairs.inc(repaired)
