"""Prometheus sees containerd's metrics under containerd's names, and ours."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cri_imaged.errors import ConfigError
from cri_imaged.limits import MIB
from cri_imaged.obs.http import MetricsServer
from cri_imaged.obs.metrics import Metrics
from tests.support.require import require_real

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Clock:
    """Goes forward by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"{name} {labels} is not exposed"
    return found


def pulls(metrics: Metrics) -> tuple[float, float, float]:
    """(succeeded, failed, running)."""
    name = "containerd_cri_image_pulls_total"
    return (
        value(metrics, name, status="success"),
        value(metrics, name, status="failure"),
        value(metrics, "containerd_cri_in_progress_image_pulls_total"),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics("1.2.3", clock)


def test_series_are_there_before_anything_happens(metrics: Metrics) -> None:
    assert pulls(metrics) == (0, 0, 0)
    assert value(metrics, "containerd_cri_image_pulling_throughput_count") == 0
    assert value(metrics, "cri_imaged_build_info", version="1.2.3") == 1


def test_a_successful_pull(metrics: Metrics, clock: Clock) -> None:
    with metrics.pulling() as pull:
        assert pulls(metrics) == (0, 0, 1)
        clock.now += 4
        pull.succeeded(image_bytes=6 * MIB)
    assert pulls(metrics) == (1, 0, 0)
    # 6 MiB in 4 s.
    assert value(metrics, "containerd_cri_image_pulling_throughput_sum") == 1.5
    assert value(metrics, "containerd_cri_image_pulling_throughput_bucket", le="1") == 0
    assert value(metrics, "containerd_cri_image_pulling_throughput_bucket", le="2.5") == 1
    assert value(metrics, "cri_imaged_pull_duration_seconds_sum", status="success") == 4


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_whatever_is_raised_is_a_failure(metrics: Metrics, error: type[BaseException]) -> None:
    def pull() -> None:
        with metrics.pulling() as running:
            running.succeeded(image_bytes=MIB)
            raise error

    with pytest.raises(error):
        pull()
    assert pulls(metrics) == (0, 1, 0)
    assert value(metrics, "containerd_cri_image_pulling_throughput_count") == 0
    assert value(metrics, "cri_imaged_pull_duration_seconds_count", status="failure") == 1


def test_a_pull_that_does_not_say_that_it_succeeded_failed(metrics: Metrics) -> None:
    with metrics.pulling():
        pass
    assert pulls(metrics) == (0, 1, 0)


async def test_a_cancelled_task_is_no_longer_in_progress(metrics: Metrics) -> None:
    started = asyncio.Event()

    async def pull() -> None:
        with metrics.pulling():
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(pull())
    await started.wait()
    assert pulls(metrics) == (0, 0, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pulls(metrics) == (0, 1, 0)


def test_a_pull_of_no_time_at_all(metrics: Metrics) -> None:
    with metrics.pulling() as pull:
        pull.succeeded(image_bytes=0)
    assert value(metrics, "containerd_cri_image_pulling_throughput_sum") == 0


def test_rpcs_and_bytes(metrics: Metrics) -> None:
    metrics.rpc("/runtime.v1.ImageService/PullImage", "NOT_FOUND", 0.3)
    metrics.rpc("/runtime.v1.ImageService/PullImage", "OK", 0.1)
    metrics.fetched(10)
    metrics.fetched(32)
    labels = {"service": "runtime.v1.ImageService", "method": "PullImage"}
    assert value(metrics, "cri_imaged_rpc_requests_total", **labels, code="NOT_FOUND") == 1
    assert value(metrics, "cri_imaged_rpc_duration_seconds_count", **labels) == 2
    assert value(metrics, "cri_imaged_fetched_bytes_total") == 42


def test_two_daemons_in_one_process_count_for_themselves(metrics: Metrics) -> None:
    other = Metrics("1.2.3")
    with other.pulling():
        pass
    assert pulls(metrics) == (0, 0, 0)


# --- over HTTP --------------------------------------------------------------------------------


@pytest.fixture
def busy(metrics: Metrics, clock: Clock) -> Metrics:
    for seconds in (0.5, 3):
        with metrics.pulling() as pull:
            clock.now += seconds
            pull.succeeded(image_bytes=3 * MIB)
    metrics.rpc("/runtime.v1.ImageService/PullImage", "OK", 0.1)
    metrics.fetched(1)
    return metrics


async def get(server: MetricsServer, path: str, accept: str = "") -> tuple[int, str, str]:
    url = f"http://127.0.0.1:{server.port}{path}"
    headers = {"Accept": accept} if accept else {}
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
async def test_the_names_types_labels_and_buckets_are_containerds(busy: Metrics, path: str) -> None:
    async with MetricsServer(busy.registry, "127.0.0.1", 0) as server:
        status, content_type, text = await get(server, path)
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    lines = {line for line in text.splitlines() if line.startswith("# TYPE containerd")}
    assert lines == {
        "# TYPE containerd_cri_image_pulls_total counter",
        "# TYPE containerd_cri_in_progress_image_pulls_total gauge",
        "# TYPE containerd_cri_image_pulling_throughput histogram",
    }
    # As Go's client writes them; 6 MiB/s and 1 MiB/s were observed.
    assert re.findall(r'throughput_bucket\{le="([^"]+)"\} (\d)', text) == [
        ("0.005", "0"),
        ("0.01", "0"),
        ("0.025", "0"),
        ("0.05", "0"),
        ("0.1", "0"),
        ("0.25", "0"),
        ("0.5", "0"),
        ("1", "1"),
        ("2.5", "1"),
        ("5", "1"),
        ("10", "2"),
        ("+Inf", "2"),
    ]
    assert "_created" not in text
    assert 'containerd_cri_image_pulls_total{status="success"} 2.0' in text


def families(parsed: Iterator[Any]) -> dict[str, dict[tuple[str, ...], float]]:
    """Values of the samples of interest, by name."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parsed:
        for sample in family.samples:
            if sample.name.startswith(("containerd", "cri_imaged")):
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_openmetrics_says_the_same_as_the_text_format(busy: Metrics) -> None:
    async with MetricsServer(busy.registry, "127.0.0.1", 0) as server:
        _, plain_type, plain = await get(server, "/metrics", "text/plain;version=0.0.4")
        _, open_type, opened = await get(server, "/metrics", OPENMETRICS)
    assert plain_type.startswith("text/plain")
    assert open_type.startswith("application/openmetrics-text")
    assert families(parse_openmetrics(opened)) == families(parse_text(plain))


async def test_promtool_objects_to_containerds_gauge_name_alone(busy: Metrics) -> None:
    require_real(shutil.which("promtool") is not None, "promtool is not installed")
    async with MetricsServer(busy.registry, "127.0.0.1", 0) as server:
        _, _, text = await get(server, "/metrics")
    run = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = (run.stdout + run.stderr).splitlines()
    assert [line.split()[0] for line in complaints] == [
        "containerd_cri_in_progress_image_pulls_total"
    ]
    assert "_total" in complaints[0]


async def test_health_and_unknown_paths(metrics: Metrics) -> None:
    async with MetricsServer(metrics.registry, "127.0.0.1", 0) as server:
        assert (await get(server, "/healthz"))[::2] == (200, "ok\n")
        assert (await get(server, "/"))[0] == 404


async def test_an_address_in_use_is_a_clear_error(metrics: Metrics) -> None:
    async with MetricsServer(metrics.registry, "127.0.0.1", 0) as server:
        second = MetricsServer(metrics.registry, "127.0.0.1", server.port)
        with pytest.raises(ConfigError, match=rf"metrics\.address: .*127\.0\.0\.1:{server.port}"):
            await second.__aenter__()


async def test_nothing_listens_afterwards(metrics: Metrics) -> None:
    async with MetricsServer(metrics.registry, "127.0.0.1", 0) as server:
        port = server.port
    async with MetricsServer(metrics.registry, "127.0.0.1", port):
        pass
