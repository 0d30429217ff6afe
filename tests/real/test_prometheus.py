"""Real Prometheus scraping the daemon, with the configuration that deploy/ ships."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.deploy import DEPLOY
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer
from tests.support.process import wait_until
from tests.support.prometheus import Prometheus, check_metrics
from tests.support.require import require_real

pytestmark = pytest.mark.real

SHIPPED = DEPLOY / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "cri-imaged.json"
SHIPPED_TARGET = "127.0.0.1:1338"


def queries() -> list[str]:
    """Those of the dashboard, with what Grafana puts in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    given = {"$instance": ".*", "$__rate_interval": "30s", "$__range": "1m"}
    for name, value in given.items():
        found = [query.replace(name, value) for query in found]
    return found


@pytest.fixture(scope="module")
def limited(scratch: Scratch) -> Iterator[DockerRegistry]:
    """A registry that says how many pulls it leaves us, as Docker Hub does."""
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
    with DockerRegistry(scratch("limited"), headers=headers) as running:
        yield running


@pytest.fixture(scope="module")
def busy_daemon(
    scratch: Scratch, registry: DockerRegistry, limited: DockerRegistry
) -> Iterator[Daemon]:
    """A daemon that pulled two images and failed at three, removed one and checked its store."""
    require_real(os.geteuid() == 0, "only root can publish layers to containers/storage")
    folder = scratch("runtime")
    with Daemon(
        scratch("metrics"),
        snapshotter="overlay",
        image_options=(
            "stats_collect_period = 1\n[runtime.containers_storage]\n"
            f'path = "{folder / "published"}"\ngraph_root = "{folder / "graph"}"'
        ),
        metrics_options=(
            f'registries = ["localhost:1", "{limited.host}"]\ncontainerd_names = ["1.7", "2"]'
        ),
    ) as running:
        wait_until(
            lambda: limited.host in running.metrics(), "the registry has series", running.process
        )
        for name, source in (("metrics/one:1", registry), ("metrics/two:1", limited)):
            running.pull(source.push(image(layer({"name": file(name)})), name))
        gone = "metrics/gone:1"
        running.pull(registry.push(image(layer({"name": file(gone)})), gone))
        running.remove(f"{registry.host}/{gone}")
        running.cli("check")
        for bad in ("Not A Reference", f"{registry.host}/metrics/none:1", "localhost:1/none:1"):
            with pytest.raises(grpc.RpcError):
                running.pull(bad)
        yield running


@pytest.fixture(scope="module")
def prometheus(busy_daemon: Daemon, scratch: Scratch) -> Iterator[Prometheus]:
    shipped = SHIPPED.read_text()
    assert SHIPPED_TARGET in shipped
    here = shipped.replace(SHIPPED_TARGET, f"127.0.0.1:{busy_daemon.metrics_port}")
    with Prometheus(scratch("prometheus"), here.replace("15s", "1s")) as running:
        yield running


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ('containerd_cri_image_pulls_total{status="success"}', 3),
        ('containerd_cri_image_pulls_total{status="failure"}', 3),
        ("containerd_cri_in_progress_image_pulls_total", 0),
        ("containerd_cri_image_pulling_throughput_count", 3),
        ('containerd_cri_sandboxed_image_pulls_total{status="success"}', 3),
        ('cri_imaged_pulls_total{registry="localhost:1",status="failure",reason="network"}', 1),
        ('cri_imaged_pulls_total{registry="other",status="failure",reason="not_found"}', 1),
        ('cri_imaged_pulls_total{registry="other",status="failure",reason="invalid"}', 1),
        ('cri_imaged_registry_requests_failed_total{registry="other",status="404"}', 1),
        ('sum(cri_imaged_pull_phase_seconds_count{phase="seal"})', 3),
        ('cri_imaged_store_objects{kind="images"}', 2),
        ('cri_imaged_store_objects{kind="partial_downloads"}', 0),
        ('cri_imaged_store_objects{kind="trash"}', 0),
        ('sum(cri_imaged_registry_rate_limit_remaining{host=~"localhost:.*"})', 76),
        ('cri_imaged_registry_requests_total{host="registry-1.docker.io"}', 0),
        ('cri_imaged_registry_requests_total{host="localhost:1",status="none"} > bool 0', 1),
        ('cri_imaged_registry_retries_total{host="localhost:1"} > bool 0', 1),
        ('cri_imaged_collected_objects_total{kind="snapshots"}', 1),
        ("cri_imaged_checks_total", 1),
        ("cri_imaged_open_problems", 0),
        ("cri_imaged_workers_cpu_seconds_total > bool 0", 1),
        ("cri_imaged_pulls_waiting", 0),
        ("cri_imaged_disk_free_bytes > bool cri_imaged_disk_reserve_bytes", 1),
        ("up", 1),
    ],
)
def test_a_query_finds_the_value(prometheus: Prometheus, query: str, value: float) -> None:
    (series,) = prometheus.query(query)
    assert float(series["value"][1]) == value


@pytest.mark.parametrize("query", queries())
def test_a_query_of_the_dashboard_gives_series(prometheus: Prometheus, query: str) -> None:
    assert prometheus.query(query)


def test_throughput_has_the_default_buckets(prometheus: Prometheus) -> None:
    series = prometheus.query("containerd_cri_image_pulling_throughput_bucket")
    bounds = [".005", ".01", ".025", ".05", ".1", ".25", ".5", "1", "2.5", "5", "10"]
    found = {float(each["metric"]["le"]) for each in series}
    assert found == {float(bound) for bound in [*bounds, "inf"]}


def test_promtool_finds_nothing_but_containerds_own_names(busy_daemon: Daemon) -> None:
    found = check_metrics(busy_daemon.metrics())
    assert len(found) == 2, found
    for line, prefix in zip(found, ("containerd_cri", "containerd_cri_sandboxed"), strict=True):
        assert f"{prefix}_in_progress_image_pulls_total" in line
        assert "_total" in line


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_it_is_alive_and_ready(busy_daemon: Daemon, path: str) -> None:
    assert busy_daemon.metrics(path) == "ok\n"


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
def test_both_paths_serve_the_metrics(busy_daemon: Daemon, path: str) -> None:
    assert "containerd_cri_image_pulls_total{" in busy_daemon.metrics(path)
