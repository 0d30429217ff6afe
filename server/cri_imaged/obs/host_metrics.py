"""What Prometheus is told of requests, by the host that was asked. Only hosts that are configured
have series of their own; a redirect may lead to any other."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge

from cri_imaged.limits import METRIC_REGISTRIES
from cri_imaged.obs.pull_metrics import OTHER, status_label
from cri_imaged.ports import RateLimit

DOCKER_HUB = "registry-1.docker.io"
"""Has series of its own wherever it stands: its limit is what nodes run into."""


class HostMetrics:
    """Those of requests by host. A `ports.RequestCounter`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._known = frozenset({DOCKER_HUB})
        self._requests = Counter(
            "cri_imaged_registry_requests",
            "Requests to the hosts of registries, by the status that was answered.",
            ["host", "status"],
            registry=registry,
        )
        self._retries = Counter(
            "cri_imaged_registry_retries",
            "Requests that were made once more at the same host, after one had failed.",
            ["host"],
            registry=registry,
        )
        self._limit = Gauge(
            "cri_imaged_registry_rate_limit",
            "Pulls that the host allows in its period, as it said last.",
            ["host"],
            registry=registry,
        )
        self._remaining = Gauge(
            "cri_imaged_registry_rate_limit_remaining",
            "Pulls of these that were left, as it said last.",
            ["host"],
            registry=registry,
        )

    def find(self, hosts: Collection[str]) -> None:
        """Let `hosts` have series of their own from now on."""
        self._known = frozenset([DOCKER_HUB, *sorted(hosts)][:METRIC_REGISTRIES])
        for host in self._known:
            # A series that appears only with the first failure makes `rate()` miss that failure.
            self._retries.labels(host)
            self._requests.labels(host, status_label(429))

    def answered(self, host: str, status: int | None, limit: RateLimit | None) -> None:
        """See `ports.RequestCounter`."""
        self._requests.labels(self._label(host), status_label(status)).inc()
        if limit is not None and host in self._known:
            self._limit.labels(host).set(limit.most)
            self._remaining.labels(host).set(limit.left)

    def retried(self, host: str) -> None:
        """See `ports.RequestCounter`."""
        self._retries.labels(self._label(host)).inc()

    def _label(self, host: str) -> str:
        return host if host in self._known else OTHER
