"""Real Prometheus scraping the daemon, with the configuration that deploy/ ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer
from tests.support.prometheus import Prometheus, check_metrics

pytestmark = pytest.mark.real

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus.yml"
SHIPPED_TARGET = "127.0.0.1:1338"


@pytest.fixture(scope="module")
def busy_daemon(scratch: Scratch, registry: DockerRegistry) -> Iterator[Daemon]:
    """A daemon that pulled two images and failed at three."""
    with Daemon(scratch("metrics"), snapshotter="native") as running:
        for name in ("metrics/one:1", "metrics/two:1"):
            running.pull(registry.push(image(layer({"name": file(name)})), name))
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
        ('containerd_cri_image_pulls_total{status="success"}', 2),
        ('containerd_cri_image_pulls_total{status="failure"}', 3),
        ("containerd_cri_in_progress_image_pulls_total", 0),
        ("containerd_cri_image_pulling_throughput_count", 2),
        ("up", 1),
    ],
)
def test_a_query_finds_the_value(prometheus: Prometheus, query: str, value: float) -> None:
    (series,) = prometheus.query(query)
    assert float(series["value"][1]) == value


def test_throughput_has_the_default_buckets(prometheus: Prometheus) -> None:
    series = prometheus.query("containerd_cri_image_pulling_throughput_bucket")
    bounds = [".005", ".01", ".025", ".05", ".1", ".25", ".5", "1", "2.5", "5", "10"]
    found = {float(each["metric"]["le"]) for each in series}
    assert found == {float(bound) for bound in [*bounds, "inf"]}


def test_promtool_finds_nothing_but_containerds_own_name(busy_daemon: Daemon) -> None:
    found = check_metrics(busy_daemon.metrics())
    assert len(found) == 1, found
    assert "containerd_cri_in_progress_image_pulls_total" in found[0]
    assert "_total" in found[0]


@pytest.mark.parametrize("path", ["/metrics", "/v1/metrics"])
def test_both_paths_serve_the_metrics(busy_daemon: Daemon, path: str) -> None:
    assert "containerd_cri_image_pulls_total{" in busy_daemon.metrics(path)
