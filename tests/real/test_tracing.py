"""Pulls as traces, from the daemon that people run to a collector."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import pytest

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.neighbours.honest import serve
from tests.real.conftest import Scratch
from tests.registry.helpers import write_hosts
from tests.support.collector import Collector
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, image, layer, sha256
from tests.support.process import wait_until
from tests.support.registry import FaultRegistry

pytestmark = pytest.mark.real

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(collector: Collector, scratch: Scratch) -> Iterator[Daemon]:
    options = f'\n[tracing]\nendpoint = "{collector.endpoint}"'
    with Daemon(scratch("traced"), snapshotter="native", image_options=options) as running:
        yield running


def test_a_pull_is_a_trace_under_the_clients_span(
    traced: Daemon, collector: Collector, registry: DockerRegistry
) -> None:
    made = image(layer({"a": file("a")}), layer({"b": file("b")}))
    reference = registry.push(made, "traced/app:v1")
    request = api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=reference))
    request.sandbox_config.metadata.name = "web"
    request.sandbox_config.metadata.namespace = "shop"
    with traced.channel() as channel:
        stub = api_pb2_grpc.ImageServiceStub(channel)
        before = time.time_ns()
        metadata = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
        stub.PullImage(request, metadata=metadata, timeout=60)
    spans = collector.trace()
    [root] = [span for span in spans if span.name == "pull"]
    assert (root.trace_id, root.parent_id) == (TRACE, PARENT)
    assert root.attributes["image.ref"] == reference
    assert root.attributes["snapshotter.name"] == "native"
    assert root.attributes["k8s.pod"] == "shop/web"
    below = [span for span in spans if span is not root]
    assert {span.parent_id for span in below} == {root.span_id}
    names = sorted(span.name for span in below)
    assert names == ["apply", "apply", "fetch", "fetch", "resolve", "seal", "seal"]
    fetched = {
        (
            span.attributes["layer.media.digest"],
            span.attributes["layer.media.size"],
            span.attributes["layer.media.type"],
        )
        for span in below
        if span.name == "fetch"
    }
    assert fetched == {(sha256(each.blob), len(each.blob), each.media_type) for each in made.layers}
    for span in below:
        assert before <= root.began <= span.began <= span.ended <= root.ended + 10**7
    assert collector.services == {"cri-imaged"}
    [line] = [each for each in traced.log_lines() if each["event"] == "pull ended"]
    assert (line["trace_id"], line["pod"]) == (TRACE, "shop/web")


def test_a_pull_without_a_clients_trace_has_one_of_its_own(
    traced: Daemon, collector: Collector, registry: DockerRegistry
) -> None:
    count = len([span for span in collector.spans if span.name == "pull"])
    with pytest.raises(grpc.RpcError):
        traced.pull(f"{registry.host}/traced/none:1")
    wait_until(
        lambda: len([span for span in collector.spans if span.name == "pull"]) > count, "a span"
    )
    root = [span for span in collector.spans if span.name == "pull"][-1]
    assert root.parent_id == ""
    assert "traced/none" in root.error
    line = [each for each in traced.log_lines() if each["event"] == "pull ended"][-1]
    assert line["trace_id"] == root.trace_id


async def test_a_registry_that_is_to_know_hears_of_the_pulls_span(
    collector: Collector, scratch: Scratch
) -> None:
    made = image(layer({"c": file("c")}))
    async with FaultRegistry() as registry:
        reference = serve(registry, "traced/told", made)
        folder = scratch("certs.d")
        hosts = f'server = "http://{registry.authority}"\ntrace_context = true\n'
        write_hosts(folder, registry.authority, hosts)
        options = f'\n[image.registry]\nconfig_path = "{folder}"'
        options += f'\n[tracing]\nendpoint = "{collector.endpoint}"'
        with Daemon(scratch("telling"), snapshotter="native", image_options=options) as running:
            await asyncio.to_thread(running.pull, reference)
        told = {seen.headers["traceparent"] for seen in registry.seen}
    [root] = [
        span
        for span in collector.spans
        if span.attributes.get("image.ref") == reference and span.name == "pull"
    ]
    assert told == {f"00-{root.trace_id}-{root.span_id}-01"}


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    code = (
        "import sys, cri_imaged.daemon, cri_imaged.monitoring;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
