"""Prometheus sees containerd's metrics under containerd's names, and ours."""

from __future__ import annotations

import asyncio
import contextlib
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
from cri_imaged.images.events import Events, GarbageCollected, StoreChecked
from cri_imaged.images.listeners import counting
from cri_imaged.images.pull.progress import RunningPulls
from cri_imaged.limits import METRIC_REGISTRIES, METRICS_CONNECTIONS, MIB
from cri_imaged.obs.http import MetricsServer
from cri_imaged.obs.metrics import Metrics
from cri_imaged.obs.pull_metrics import PullFigures
from cri_imaged.ports import RateLimit
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
    return Metrics("1.2.3")


@pytest.fixture
def running(metrics: Metrics, clock: Clock) -> RunningPulls:
    """What pulls report themselves to; the metrics listen."""
    events = Events()
    events.attach(counting(metrics))
    return RunningPulls(events, clock)


def test_series_are_there_before_anything_happens(metrics: Metrics) -> None:
    assert pulls(metrics) == (0, 0, 0)
    assert value(metrics, "containerd_cri_image_pulling_throughput_count") == 0
    assert value(metrics, "cri_imaged_build_info", version="1.2.3") == 1


def test_a_successful_pull(metrics: Metrics, running: RunningPulls, clock: Clock) -> None:
    with running.track("a", "") as pull:
        assert pulls(metrics) == (0, 0, 1)
        clock.now += 4
        pull.image_bytes = 6 * MIB
    assert pulls(metrics) == (1, 0, 0)
    # 6 MiB in 4 s.
    assert value(metrics, "containerd_cri_image_pulling_throughput_sum") == 1.5
    assert value(metrics, "containerd_cri_image_pulling_throughput_bucket", le="1") == 0
    assert value(metrics, "containerd_cri_image_pulling_throughput_bucket", le="2.5") == 1
    assert value(metrics, "cri_imaged_pull_duration_seconds_sum", status="success") == 4


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_whatever_is_raised_is_a_failure(
    metrics: Metrics, running: RunningPulls, error: type[BaseException]
) -> None:
    def pull() -> None:
        with running.track("a", "") as progress:
            progress.image_bytes = MIB
            raise error

    with pytest.raises(error):
        pull()
    assert pulls(metrics) == (0, 1, 0)
    assert value(metrics, "containerd_cri_image_pulling_throughput_count") == 0
    assert value(metrics, "cri_imaged_pull_duration_seconds_count", status="failure") == 1


async def test_a_cancelled_task_is_no_longer_in_progress(
    metrics: Metrics, running: RunningPulls
) -> None:
    started = asyncio.Event()

    async def pull() -> None:
        with running.track("a", ""):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(pull())
    await started.wait()
    assert pulls(metrics) == (0, 0, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pulls(metrics) == (0, 1, 0)


def test_a_pull_of_no_time_at_all(metrics: Metrics, running: RunningPulls) -> None:
    with running.track("a", ""):
        pass
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
    other.pull_began()
    other.pull_ended(PullFigures("", "failure", "network", 1.0))
    assert pulls(metrics) == (0, 0, 0)


# --- over HTTP --------------------------------------------------------------------------------


@pytest.fixture
def busy(metrics: Metrics) -> Metrics:
    for seconds in (0.5, 3):
        metrics.pull_began()
        metrics.pull_ended(PullFigures("", "success", "", seconds, 3 * MIB))
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


async def ask(server: MetricsServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"GET /healthz?a=b HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_odd_requests(metrics: Metrics, request_: bytes, status: bytes) -> None:
    async with MetricsServer(metrics.registry, "127.0.0.1", 0) as server:
        answer = await ask(server, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert (body == b"") == request_.startswith(b"HEAD")


async def test_a_client_that_says_nothing_is_hung_up_on(metrics: Metrics) -> None:
    async with (
        asyncio.timeout(30),
        MetricsServer(metrics.registry, "127.0.0.1", 0, request_seconds=0.2) as server,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_a_crowd_of_silent_clients_keeps_nobody_out(metrics: Metrics) -> None:
    async with MetricsServer(metrics.registry, "127.0.0.1", 0) as server:
        crowd = [
            await asyncio.open_connection("127.0.0.1", server.port)
            for _ in range(METRICS_CONNECTIONS + 10)
        ]
        assert (await get(server, "/healthz"))[0] == 200
        gone = [reader for reader, _ in crowd if reader.at_eof() or reader.exception()]
        assert len(gone) >= 10
        for _, writer in crowd:
            writer.close()


# --- pulls by registry ------------------------------------------------------------------------


def figures(registry: str, reason: str = "", **more: Any) -> PullFigures:
    return PullFigures(registry, "failure" if reason else "success", reason, 2.0, **more)


def test_pulls_are_told_apart_by_registry_and_reason(metrics: Metrics) -> None:
    metrics.pulls.configure(["docker.io"])
    metrics.pulls.find(["mirror.example:5000"])
    metrics.pull_ended(figures("docker.io", received=10 * MIB, reused=MIB, image_bytes=11 * MIB))
    metrics.pull_ended(figures("docker.io", "auth", failed=[401, 503, None]))
    metrics.pull_ended(figures("mirror.example:5000", phases={"fetch": 1.5}))

    def pulls_of(registry: str, status: str, reason: str) -> float:
        labels = {"registry": registry, "status": status, "reason": reason}
        return value(metrics, "cri_imaged_pulls_total", **labels)

    assert pulls_of("docker.io", "success", "") == 1
    assert pulls_of("docker.io", "failure", "auth") == 1
    assert pulls_of("mirror.example:5000", "success", "") == 1
    assert pulls_of("other", "success", "") == 0
    hub = {"registry": "docker.io"}
    assert value(metrics, "cri_imaged_pull_fetched_bytes_total", **hub) == 10 * MIB
    assert value(metrics, "cri_imaged_pull_reused_bytes_total", **hub) == MIB
    assert value(metrics, "cri_imaged_pull_throughput_bytes_per_second_sum", **hub) == 5 * MIB
    for status in ("401", "5xx", "none"):
        found = value(metrics, "cri_imaged_registry_requests_failed_total", status=status, **hub)
        assert found == 1, status
    assert value(metrics, "cri_imaged_pull_phase_seconds_sum", phase="fetch") == 1.5


def test_requests_are_told_apart_by_host(metrics: Metrics) -> None:
    hosts = metrics.hosts
    hosts.find(["mirror.example:5000"])
    for host in ("mirror.example:5000", "cdn.example:443"):
        hosts.answered(host, 200, RateLimit(100, 76))
        hosts.answered(host, 429, None)
        hosts.answered(host, None, None)
        hosts.retried(host)
    hosts.answered("registry-1.docker.io", 200, RateLimit(200, 1))
    for host in ("mirror.example:5000", "other"):
        for status in ("2xx", "429", "none"):
            found = value(metrics, "cri_imaged_registry_requests_total", host=host, status=status)
            assert found == 1, (host, status)
        assert value(metrics, "cri_imaged_registry_retries_total", host=host) == 1
    remaining = "cri_imaged_registry_rate_limit_remaining"
    assert value(metrics, remaining, host="mirror.example:5000") == 76
    assert value(metrics, remaining, host="registry-1.docker.io") == 1
    # Of hosts that share a series nobody could tell whose limit it is.
    assert metrics.registry.get_sample_value(remaining, {"host": "other"}) is None


def test_a_thousand_hosts_do_not_make_a_thousand_series(metrics: Metrics) -> None:
    metrics.hosts.find([f"h{n}.example" for n in range(1000)])
    for n in range(1000):
        metrics.hosts.answered(f"h{n}.example", n, RateLimit(1, 1))
    hosts = {labels.get("host") for labels in samples(metrics)} - {None}
    assert len(hosts) == METRIC_REGISTRIES + 1
    assert "registry-1.docker.io" in hosts


def test_what_keeps_the_store_in_order(metrics: Metrics) -> None:
    listener = counting(metrics)
    listener(GarbageCollected(blobs=2, snapshots=1, bytes=30))
    listener(GarbageCollected(blobs=0, snapshots=0, bytes=0))
    listener(StoreChecked(problems=3, repaired=1))
    listener(StoreChecked(problems=1, repaired=1, whole=False))
    assert value(metrics, "cri_imaged_collections_total") == 2
    assert value(metrics, "cri_imaged_collected_objects_total", kind="blobs") == 2
    assert value(metrics, "cri_imaged_collected_bytes_total") == 30
    assert value(metrics, "cri_imaged_checks_total") == 1
    assert value(metrics, "cri_imaged_problems_total") == 4
    assert value(metrics, "cri_imaged_repairs_total") == 2
    assert value(metrics, "cri_imaged_open_problems") == 2


def test_a_thousand_registries_do_not_make_a_thousand_series(metrics: Metrics) -> None:
    metrics.pulls.find([f"r{n}.example" for n in range(1000)])
    series = len(list(samples(metrics)))
    for n in range(1000, 2000):
        metrics.pull_ended(figures(f"r{n}.example", received=1))
        metrics.pull_ended(figures(f"r{n}.example", "network", failed=[n]))
    assert value(metrics, "cri_imaged_pulls_total", registry="other", status="success", reason="")
    assert len(list(samples(metrics))) < series + 100
    registries = {labels.get("registry") for labels in samples(metrics)} - {None}
    assert len(registries) == METRIC_REGISTRIES + 1


def samples(metrics: Metrics) -> Iterator[dict[str, str]]:
    for family in metrics.registry.collect():
        yield from (sample.labels for sample in family.samples)


def test_containerd_2_has_names_of_its_own() -> None:
    both = Metrics("1", ("1.7", "2"))
    both.pull_began()
    both.pull_ended(figures("a", image_bytes=8 * MIB, received=4 * MIB))
    both.pull_began()
    both.pull_ended(figures("a", image_bytes=8 * MIB))
    for prefix in ("containerd_cri", "containerd_cri_sandboxed"):
        assert value(both, f"{prefix}_image_pulls_total", status="success") == 2
        assert value(both, f"{prefix}_in_progress_image_pulls_total") == 0
    # What was here already is no throughput to containerd 2.
    assert value(both, "containerd_cri_image_pulling_throughput_count") == 2
    assert value(both, "containerd_cri_sandboxed_image_pulling_throughput_count") == 1
    assert value(both, "containerd_cri_sandboxed_image_pulling_throughput_mibps_sum") == 2
    only = Metrics("1", ("2",))
    assert only.registry.get_sample_value("containerd_cri_in_progress_image_pulls_total") is None


async def test_alive_and_ready(metrics: Metrics) -> None:
    reason = ""

    async def ready() -> str:
        return reason

    async with MetricsServer(metrics.registry, "127.0.0.1", 0, ready) as server:
        for path in ("/livez", "/readyz", "/healthz"):
            assert (await get(server, path))[::2] == (200, "ok\n")
        reason = "the disk is gone"
        assert (await get(server, "/livez"))[0] == 200
        for path in ("/readyz", "/healthz"):
            assert (await get(server, path))[::2] == (503, "the disk is gone\n")
