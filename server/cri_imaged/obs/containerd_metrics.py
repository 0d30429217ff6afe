"""containerd's metrics, name for name, so that dashboards and alerts that were made for it work:
those of 1.7, and those of 2.x, which has others for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from cri_imaged.limits import MIB
from cri_imaged.obs.go_histogram import GoHistogram
from cri_imaged.obs.pull_metrics import PullFigures

_MIBPS = (0.1, 1, 10, 25, 75, 150, 300, 500, 1000, 2000, 4000)


class ContainerdMetrics(Protocol):
    """One set of names."""

    def pull_began(self) -> None:
        """Count a pull that runs."""
        ...

    def pull_ended(self, pull: PullFigures) -> None:
        """Count how a pull that ran has ended."""
        ...


class _Pulls:
    """What both have."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        # The library appends `_total`.
        self._pulls = Counter(
            f"{prefix}_image_pulls",
            "Image pulls that ended, by outcome.",
            ["status"],
            registry=registry,
        )
        self._running = Gauge(
            f"{prefix}_in_progress_image_pulls_total",
            "Image pulls running now.",
            registry=registry,
        )
        # A series that appears only with the first failure makes `rate()` miss that failure.
        for status in ("success", "failure"):
            self._pulls.labels(status)

    def pull_began(self) -> None:
        """See `ContainerdMetrics.pull_began`."""
        self._running.inc()

    def pull_ended(self, pull: PullFigures) -> None:
        """See `ContainerdMetrics.pull_ended`."""
        self._running.dec()
        self._pulls.labels("success" if pull.outcome == "success" else "failure").inc()


class Names17(_Pulls):
    """containerd 1.7's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("containerd_cri", registry)
        self._throughput = GoHistogram(
            "containerd_cri_image_pulling_throughput",
            "Compressed image size in MiB per second of a successful pull.",
            registry,
        )

    def pull_ended(self, pull: PullFigures) -> None:
        """See `ContainerdMetrics.pull_ended`."""
        super().pull_ended(pull)
        if pull.outcome == "success":
            self._throughput.observe(pull.image_bytes / MIB / max(pull.seconds, 1e-9))


class Names2(_Pulls):
    """containerd 2.x': its throughput counts what came over the network, and only where any did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "containerd_cri_sandboxed"
        super().__init__(prefix, registry)
        text = "MiB per second that a successful pull fetched."
        self._throughputs = (
            GoHistogram(f"{prefix}_image_pulling_throughput", text, registry),
            GoHistogram(f"{prefix}_image_pulling_throughput_mibps", text, registry, _MIBPS),
        )

    def pull_ended(self, pull: PullFigures) -> None:
        """See `ContainerdMetrics.pull_ended`."""
        super().pull_ended(pull)
        if pull.outcome == "success" and pull.received:
            for histogram in self._throughputs:
                histogram.observe(pull.received / MIB / max(pull.seconds, 1e-9))


SETS: Mapping[str, Callable[[CollectorRegistry], ContainerdMetrics]] = {
    "1.7": Names17,
    "2": Names2,
}
"""By `metrics.containerd_names`."""
