"""What keeps the event loop busy is found, named and counted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from cri_imaged.obs.stalls import OwnTime, StallWatch


def a_callback_that_blocks(seconds: float) -> None:
    time.sleep(seconds)


def stalls(registry: CollectorRegistry) -> tuple[float, float]:
    """(how many, seconds)."""
    values = [
        registry.get_sample_value(f"cri_imaged_event_loop_{name}_total")
        for name in ("stalls", "stalled_seconds")
    ]
    return values[0] or 0.0, values[1] or 0.0


async def test_a_stall_is_logged_with_its_stack_and_counted() -> None:
    registry = CollectorRegistry()
    with capture_logs() as logs, StallWatch(registry):
        await asyncio.sleep(0.15)
        a_callback_that_blocks(0.6)
        async with asyncio.timeout(30):
            while not stalls(registry)[0]:  # noqa: ASYNC110  # a thread counts
                await asyncio.sleep(0.01)
    (told,) = [line for line in logs if line["event"] == "event loop is kept busy"]
    assert "a_callback_that_blocks" in told["stack"]
    count, seconds = stalls(registry)
    assert count == 1
    assert 0.1 < seconds < 30
    lag = "cri_imaged_event_loop_lag_seconds"
    assert (registry.get_sample_value(f"{lag}_sum") or 0) > 0.1
    assert (registry.get_sample_value(f"{lag}_count") or 0) >= 1


async def test_a_loop_that_goes_round_is_no_stall() -> None:
    registry = CollectorRegistry()
    with StallWatch(registry):
        for _ in range(10):
            await asyncio.sleep(0.05)
            a_callback_that_blocks(0.01)
    assert stalls(registry) == (0, 0)


async def test_the_watch_ends_beside_a_busy_loop() -> None:
    with StallWatch(CollectorRegistry()):
        await asyncio.sleep(0.12)
        a_callback_that_blocks(0.05)  # the end comes while the loop owes an answer


WAITS_FOR_A_CORE = """
import os, threading, time
from cri_imaged.obs.stalls import OwnTime
own = OwnTime(threading.get_native_id())
began, cpu, then = time.monotonic(), time.process_time(), own.now()
while time.process_time() - cpu < 0.3:
    pass
print(time.monotonic() - began, own.since(then))
"""


def test_time_without_a_core_does_not_pass() -> None:
    core = min(os.sched_getaffinity(0))
    pin = ["taskset", "-c", str(core)]
    burners = [subprocess.Popen([*pin, sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        run = subprocess.run(
            [*pin, sys.executable, "-c", WAITS_FOR_A_CORE],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    finally:
        for burner in burners:
            burner.send_signal(signal.SIGKILL)
            burner.wait()
    passed, own = map(float, run.stdout.split())
    assert passed > 0.5, "the core was to be shared"
    assert own == pytest.approx(0.3, abs=0.15)


def test_a_thread_that_is_not_there_counts_nothing() -> None:
    own = OwnTime(2**22 + 1)
    assert own.since(own.now()) >= 0
    own.close()


def test_a_time_that_was_all_waited_is_none() -> None:
    own = OwnTime(threading.get_native_id())
    now, waited = own.now()
    assert own.since((now, [each - 10**12 for each in waited])) == 0.0
    own.close()
