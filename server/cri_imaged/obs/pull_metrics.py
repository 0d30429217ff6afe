"""What Prometheus is told of pulls, by registry. Only registries that are configured have series of
their own, so that who pulls from a thousand others makes no thousand series."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from cri_imaged.limits import METRIC_REGISTRIES

PULL_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_PHASE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BYTES_PER_SECOND = tuple(mib * (1 << 20) for mib in (0.1, 1, 10, 25, 75, 150, 300, 1000))
OTHER = "other"
"""Stands for every registry that is not configured."""


@dataclass(frozen=True, slots=True)
class PullFigures:
    """One pull that ended."""

    registry: str
    outcome: str
    """`success`, `failure` or `cancelled`."""
    reason: str
    """Of a failure, in one word; empty where there was none."""
    seconds: float
    image_bytes: int = 0
    """The image's compressed size."""
    received: int = 0
    """Bytes that came over the network."""
    reused: int = 0
    """Bytes that did not have to."""
    phases: Mapping[str, float] | None = None
    """Seconds by phase."""
    failed: Iterable[int | None] = ()
    """The HTTP status of each request that failed; None where none came."""


class PullMetrics:
    """Those of pulls by registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._with_hosts = self._known = frozenset[str]()
        self.named = frozenset[str]()
        """The registries that the configuration names."""
        self._pulls = Counter(
            "cri_imaged_pulls",
            "Image pulls that ended, by registry, outcome, and why they failed.",
            ["registry", "status", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "cri_imaged_registry_pull_seconds",
            "Duration of successful image pulls, by registry.",
            ["registry"],
            buckets=PULL_SECONDS,
            registry=registry,
        )
        self._received = Counter(
            "cri_imaged_pull_fetched_bytes",
            "Bytes of layers that pulls fetched, by registry.",
            ["registry"],
            registry=registry,
        )
        self._reused = Counter(
            "cri_imaged_pull_reused_bytes",
            "Bytes of layers that pulls found here, by registry.",
            ["registry"],
            registry=registry,
        )
        self._throughput = Histogram(
            "cri_imaged_pull_throughput_bytes_per_second",
            "Bytes per second of successful pulls that fetched something, by registry.",
            ["registry"],
            buckets=_BYTES_PER_SECOND,
            registry=registry,
        )
        self._failed = Counter(
            "cri_imaged_registry_requests_failed",
            "Requests to registries that failed, by the status that was answered.",
            ["registry", "status"],
            registry=registry,
        )
        self._phases = Histogram(
            "cri_imaged_pull_phase_seconds",
            "Seconds that the parts of pulls took; they overlap.",
            ["phase"],
            buckets=_PHASE_SECONDS,
            registry=registry,
        )
        self._settle()

    def configure(self, named: Collection[str]) -> None:
        """Let the registries that are `named` have series of their own from now on."""
        self.named = frozenset(named)
        self._settle()

    def find(self, with_hosts: Collection[str]) -> None:
        """As `configure`, besides: those that hosts are configured for."""
        self._with_hosts = frozenset(with_hosts)
        self._settle()

    def _settle(self) -> None:
        others = sorted(self._with_hosts - self.named)
        self._known = frozenset([*sorted(self.named), *others][:METRIC_REGISTRIES])
        for registry in (*self._known, OTHER):
            self._pulls.labels(registry, "success", "")

    def count(self, pull: PullFigures) -> None:
        """Count a pull that ended."""
        registry = pull.registry if pull.registry in self._known else OTHER
        self._pulls.labels(registry, pull.outcome, pull.reason).inc()
        self._received.labels(registry).inc(pull.received)
        self._reused.labels(registry).inc(pull.reused)
        for status in pull.failed:
            self._failed.labels(registry, status_label(status)).inc()
        if pull.outcome == "success":
            self._seconds.labels(registry).observe(pull.seconds)
            if pull.received:
                rate = pull.received / max(pull.seconds, 1e-9)
                self._throughput.labels(registry).observe(rate)
        for phase, seconds in (pull.phases or {}).items():
            self._phases.labels(phase).observe(seconds)


def status_label(status: int | None) -> str:
    """The label of an HTTP status; None where none came. Few are of use, and who answers may make
    up any."""
    if status is None:
        return "none"
    return str(status) if status in (401, 403, 404, 429) else f"{status // 100}xx"
