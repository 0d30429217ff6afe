"""What Prometheus is told of the runtimes that we keep in line."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)


@dataclass(frozen=True, slots=True)
class RuntimeMetrics:
    """Those of one runtime."""

    up: Gauge
    owed: Gauge
    seconds: Histogram
    failures: Counter


class RuntimesMetrics:
    """Those of all runtimes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._up = Gauge(
            "cri_imaged_runtime_up",
            "1 while the runtime can be told of our images.",
            ["runtime"],
            registry=registry,
        )
        self._owed = Gauge(
            "cri_imaged_runtime_owed_images",
            "Images that the runtime is still to be told of, new ones and removed ones.",
            ["runtime"],
            registry=registry,
        )
        self._seconds = Histogram(
            "cri_imaged_runtime_registration_seconds",
            "Seconds that the runtime took to take over one image, or to let go of it.",
            ["runtime"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "cri_imaged_runtime_registration_failures",
            "Images that the runtime could not be told of at once.",
            ["runtime"],
            registry=registry,
        )

    def of(self, runtime: str) -> RuntimeMetrics:
        """Those of the runtime of that name."""
        return RuntimeMetrics(
            self._up.labels(runtime),
            self._owed.labels(runtime),
            self._seconds.labels(runtime),
            self._failures.labels(runtime),
        )
