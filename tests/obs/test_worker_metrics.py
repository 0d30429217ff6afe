"""CPU time and memory of the processes that unpack."""

from __future__ import annotations

import os
import subprocess
import sys

from prometheus_client import CollectorRegistry

from cri_imaged.obs.worker_metrics import WorkerMetrics

FAMILY = """
import os, sys
def burn():
    while sum(os.times()[:2]) < 0.3: pass
if not os.fork(): burn(); os._exit(0)
os.wait()
if not os.fork(): burn(); print(flush=True); sys.stdin.read(); os._exit(0)
sys.stdin.read()
"""
"""A process with a child that has ended, and one that runs; each has used some CPU time."""


def test_those_of_a_process_its_children_and_those_that_ended() -> None:
    registry = CollectorRegistry()
    parents: list[int | None] = [None]
    WorkerMetrics(registry, lambda: parents[0])

    def value(name: str) -> float:
        found = registry.get_sample_value(f"cri_imaged_workers{name}")
        assert found is not None
        return found

    assert value("") == value("_cpu_seconds_total") == value("_memory_bytes") == 0
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=pipe, stdout=pipe) as family:
        assert family.stdout is not None
        family.stdout.readline()
        parents[0] = family.pid
        assert value("") == 1
        assert value("_cpu_seconds_total") >= 0.5
        assert value("_memory_bytes") > os.sysconf("SC_PAGE_SIZE")
        family.communicate()
    assert value("_cpu_seconds_total") == 0
