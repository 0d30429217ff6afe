"""What Prometheus is told.

The first three are containerd 1.7's, name for name, so that existing dashboards and alerts work.
What we add is named `cri_imaged_*`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from cri_imaged.limits import MIB
from cri_imaged.obs.go_histogram import GoHistogram

PULL_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 10, 60, 600)


class RunningPull:
    """One pull as the metrics see it, from `Metrics.pulling`."""

    image_bytes: int | None = None

    def succeeded(self, image_bytes: int) -> None:
        """Say that the pull succeeded, and the image's compressed size in bytes. A pull that never
        says so has failed."""
        self.image_bytes = image_bytes


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        # Not per registry in this library. containerd exposes no `_created` series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._clock = clock
        self._pulls = Counter(
            # The library appends `_total`.
            "containerd_cri_image_pulls",
            "Image pulls that ended, by outcome.",
            ["status"],
            registry=self.registry,
        )
        self._running = Gauge(
            "containerd_cri_in_progress_image_pulls_total",
            "Image pulls running now.",
            registry=self.registry,
        )
        self._throughput = GoHistogram(
            "containerd_cri_image_pulling_throughput",
            "Compressed image size in MiB per second of a successful pull.",
            self.registry,
        )
        self._pull_seconds = Histogram(
            "cri_imaged_pull_duration_seconds",
            "Duration of image pulls, by outcome.",
            ["status"],
            buckets=PULL_SECONDS,
            registry=self.registry,
        )
        self._fetched = Counter(
            "cri_imaged_fetched_bytes",
            "Bytes of image content received from registries.",
            registry=self.registry,
        )
        self._rpcs = Counter(
            "cri_imaged_rpc_requests",
            "Finished RPCs, by service, method and gRPC status code.",
            ["service", "method", "code"],
            registry=self.registry,
        )
        self._rpc_seconds = Histogram(
            "cri_imaged_rpc_duration_seconds",
            "Duration of finished RPCs.",
            ["service", "method"],
            buckets=RPC_SECONDS,
            registry=self.registry,
        )
        Info("cri_imaged_build", "The running build.", registry=self.registry).info(
            {"version": version}
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        # A series that appears only with the first failure makes `rate()` miss that failure.
        for status in ("success", "failure"):
            self._pulls.labels(status)
            self._pull_seconds.labels(status)

    @contextmanager
    def pulling(self) -> Iterator[RunningPull]:
        """Count one pull while it runs, and its outcome when it ends, however it ends: a pull that
        raises, is cancelled or does not call `succeeded` is a failure."""
        pull = RunningPull()
        began = self._clock()
        self._running.inc()
        try:
            yield pull
        except BaseException:
            pull.image_bytes = None
            raise
        finally:
            self._running.dec()
            self._ended(pull, self._clock() - began)

    def _ended(self, pull: RunningPull, seconds: float) -> None:
        status = "failure" if pull.image_bytes is None else "success"
        self._pulls.labels(status).inc()
        self._pull_seconds.labels(status).observe(seconds)
        if pull.image_bytes is not None:
            self._throughput.observe(pull.image_bytes / MIB / max(seconds, 1e-9))

    def fetched(self, count: int) -> None:
        """Count bytes as they arrive from registries."""
        self._fetched.inc(count)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """Count a finished RPC: `/package.Service/Method`, the code's name (`NOT_FOUND`).

        Only for methods that are served: a name that a stranger made up would become a series.
        """
        service, _, name = method.removeprefix("/").rpartition("/")
        self._rpcs.labels(service, name, code).inc()
        self._rpc_seconds.labels(service, name).observe(seconds)
