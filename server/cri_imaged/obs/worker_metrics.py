"""What Prometheus is told of the processes that unpack layers, as the kernel counts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OWN_TIMES, _WITH_CHILDREN = slice(11, 13), slice(11, 15)
"""Of the fields behind the name in proc(5)'s `stat`: utime and stime, cutime and cstime."""


class WorkerMetrics(Collector):
    """Reads them at each scrape."""

    def __init__(self, registry: CollectorRegistry, parent: Callable[[], int | None]) -> None:
        """`parent` tells the process whose children unpack; None while there is none."""
        self._parent = parent
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """See `Collector`: what there will be is known without a look."""
        return _metrics(0, 0, 0)

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        parent = self._parent()
        if parent is None:
            return _metrics(0, 0, 0)
        children = _children(parent)
        seconds = _seconds(parent, _WITH_CHILDREN)
        seconds += sum(_seconds(child, _OWN_TIMES) for child in children)
        return _metrics(seconds, sum(map(_memory, (parent, *children))), len(children))


def _metrics(seconds: float, memory: int, processes: int) -> tuple[Metric, ...]:
    cpu = CounterMetricFamily(
        "cri_imaged_workers_cpu_seconds", "CPU time of the processes that unpack layers."
    )
    cpu.add_metric([], seconds)
    return (
        cpu,
        GaugeMetricFamily(
            "cri_imaged_workers_memory_bytes",
            "Resident memory of these processes, without what they share.",
            memory,
        ),
        GaugeMetricFamily("cri_imaged_workers", "Processes that unpack layers now.", processes),
    )


def _children(process: int) -> list[int]:
    with suppress(OSError):
        text = (_PROC / f"{process}/task/{process}/children").read_text()
        return list(map(int, text.split()))
    return []


def _seconds(process: int, times: slice) -> float:
    with suppress(OSError):  # it has ended: its parent has its times
        stat = (_PROC / f"{process}/stat").read_text()
        return sum(map(int, stat.rpartition(")")[2].split()[times])) / _TICKS
    return 0.0


def _memory(process: int) -> int:
    with suppress(OSError):
        _, resident, shared, *_ = (_PROC / f"{process}/statm").read_text().split()
        return (int(resident) - int(shared)) * _PAGE
    return 0
