"""What Prometheus is told: containerd's metrics under its names (`containerd_metrics.py`), and
ours, which are named `cri_imaged_*`."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from cri_imaged.obs.containerd_metrics import SETS
from cri_imaged.obs.host_metrics import HostMetrics
from cri_imaged.obs.pull_metrics import PULL_SECONDS, PullFigures, PullMetrics
from cri_imaged.obs.store_metrics import StoreMetrics
from cri_imaged.obs.upkeep_metrics import UpkeepMetrics

RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 10, 60, 600)


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self, version: str, containerd_names: Sequence[str] = ("1.7",)) -> None:
        """`containerd_names` are keys of `SETS`."""
        # Not per registry in this library. containerd exposes no `_created` series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.pulls = PullMetrics(self.registry)
        self.store = StoreMetrics(self.registry)
        self.hosts = HostMetrics(self.registry)
        self.upkeep = UpkeepMetrics(self.registry)
        self._containerd = [SETS[name](self.registry) for name in dict.fromkeys(containerd_names)]
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
        self._rpc_series: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        Info("cri_imaged_build", "The running build.", registry=self.registry).info(
            {"version": version}
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        # A series that appears only with the first failure makes `rate()` miss that failure.
        for status in ("success", "failure"):
            self._pull_seconds.labels(status)

    def pull_began(self) -> None:
        """Count a pull that runs."""
        for names in self._containerd:
            names.pull_began()

    def pull_ended(self, pull: PullFigures) -> None:
        """Count how a pull that ran has ended."""
        for names in self._containerd:
            names.pull_ended(pull)
        status = "success" if pull.outcome == "success" else "failure"
        self._pull_seconds.labels(status).observe(pull.seconds)
        self.pulls.count(pull)

    def fetched(self, count: int) -> None:
        """Count bytes as they arrive from registries."""
        self._fetched.inc(count)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """Count a finished RPC: `/package.Service/Method`, the code's name (`NOT_FOUND`).

        Only for methods that are served: a name that a stranger made up would become a series.
        """
        series = self._rpc_series.get((method, code))
        if series is None:  # to look one up takes far longer than to count
            service, _, name = method.removeprefix("/").rpartition("/")
            series = (
                self._rpcs.labels(service, name, code),
                self._rpc_seconds.labels(service, name),
            )
            self._rpc_series[method, code] = series
        finished, durations = series
        finished.inc()
        durations.observe(seconds)
