"""Runtime handlers: two snapshotters and two platforms of one index, in one daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from cri_imaged.rpc.node.v1 import node_pb2, node_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.real.conftest import Scratch
from tests.support.crictl import Crictl
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Image, file, host_architecture, image, layer
from tests.support.require import require_real

pytestmark = pytest.mark.real

OTHER = "arm64" if host_architecture() == "amd64" else "amd64"
HANDLERS = f"""
[image.runtime_platforms.vm]
platform = "linux/{OTHER}"
snapshotter = "native"

[image.runtime_platforms.copied]
snapshotter = "native"

[image.runtime_platforms.runc]
"""
ANNOTATION = "io.containerd.cri.runtime-handler"


@pytest.fixture(scope="module")
def daemon(scratch: Scratch) -> Iterator[Daemon]:
    require_real(os.geteuid() == 0, "only root can mount")
    with Daemon(scratch("handlers"), image_options=HANDLERS) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty_store(daemon: Daemon) -> None:
    for present in daemon.images():
        _remove(daemon, present.id, present.spec.runtime_handler)


@dataclass(frozen=True)
class Index:
    reference: str
    host: Image
    other: Image


@pytest.fixture(scope="module")
def index(registry: DockerRegistry) -> Index:
    host = image(layer({"arch": file("host")}), layer({"top": file("both")}))
    other = replace(image(layer({"arch": file("other")}), host.layers[1]), architecture=OTHER)
    return Index(registry.push(host, "handlers/index:1", other), host, other)


def _pull(daemon: Daemon, reference: str, handler: str = "", **annotations: str) -> str:
    request = api_pb2.PullImageRequest(
        image=api_pb2.ImageSpec(image=reference, runtime_handler=handler)
    )
    request.sandbox_config.annotations.update(annotations)
    with daemon.channel() as channel:
        stub = api_pb2_grpc.ImageServiceStub(channel)
        return str(stub.PullImage(request, timeout=60).image_ref)


def _remove(daemon: Daemon, name: str, handler: str) -> None:
    spec = api_pb2.ImageSpec(image=name, runtime_handler=handler)
    with daemon.channel() as channel:
        stub = api_pb2_grpc.ImageServiceStub(channel)
        stub.RemoveImage(api_pb2.RemoveImageRequest(image=spec), timeout=10)


def _listed(daemon: Daemon) -> set[tuple[str, str]]:
    """What the kubelet's image collection knows images by."""
    return {(each.id, each.spec.runtime_handler) for each in daemon.images()}


def _mount(daemon: Daemon, reference: str, handler: str) -> node_pb2.Mount:
    """What a writable view of the image is mounted by."""
    request = node_pb2.CreateViewRequest(
        image=reference, runtime_handler=handler, key=f"look-{handler}", writable=True
    )
    with daemon.channel() as channel:
        node = node_pb2_grpc.NodeStub(channel)
        (mount,) = node.CreateView(request, timeout=10).mounts
        node.ReleaseView(node_pb2.ReleaseViewRequest(key=request.key), timeout=10)
        return mount


def _warnings(daemon: Daemon) -> int:
    return sum(line.get("annotation") == ANNOTATION for line in daemon.log_lines())


def test_two_platforms_of_one_index_into_two_snapshotters_at_the_same_time(
    daemon: Daemon, index: Index
) -> None:
    with ThreadPoolExecutor(2) as threads:
        pulls = [threads.submit(_pull, daemon, index.reference, name) for name in ("", "vm")]
        assert [each.result() for each in pulls] == [index.host.id, index.other.id]
    assert _listed(daemon) == {(index.host.id, ""), (index.other.id, "vm")}
    assert _mount(daemon, index.reference, "").type == "overlay"
    assert _mount(daemon, index.reference, "vm").type == "bind"
    told = daemon.cli("inspect", "-o", "json", "--runtime-handler=vm", index.reference).stdout
    assert json.loads(told)["info"]["info"]["imageSpec"]["architecture"] == OTHER


def test_the_same_image_for_two_handlers_is_listed_and_removed_for_each(
    daemon: Daemon, index: Index
) -> None:
    for handler in ("", "copied", "runc"):
        assert _pull(daemon, index.reference, handler) == index.host.id
    assert _listed(daemon) == {(index.host.id, each) for each in ("", "copied", "runc")}
    _remove(daemon, index.host.id, "copied")
    assert _listed(daemon) == {(index.host.id, each) for each in ("", "runc")}
    assert _mount(daemon, index.reference, "runc").type == "overlay", "the default snapshotter"


def test_the_command_line_tells_handlers_apart(daemon: Daemon, index: Index) -> None:
    for handler in ("", "copied"):
        _pull(daemon, index.reference, handler)
    header, *rows = daemon.cli("images").stdout.splitlines()
    assert header.split()[-1] == "HANDLER"
    assert sorted(row.endswith("copied") for row in rows) == [False, True]
    assert daemon.cli("rm", "--runtime-handler=vm", index.reference, check=False).returncode == 3
    daemon.cli("rm", "--runtime-handler=copied", index.reference)
    assert _listed(daemon) == {(index.host.id, "")}
    _pull(daemon, index.reference, "copied")
    daemon.cli("rm", "--all")
    assert _listed(daemon) == set()


def test_rm_of_another_handlers_name_leaves_the_default_ones_image(
    daemon: Daemon, registry: DockerRegistry, index: Index
) -> None:
    """Both have the image; the name that is removed is the other's alone."""
    other_name = registry.push(index.host, "handlers/elsewhere:1")
    _pull(daemon, index.reference)
    _pull(daemon, other_name, "copied")
    daemon.cli("rm", other_name)
    assert _listed(daemon) == {(index.host.id, "")}


def test_an_unknown_handler_is_refused_as_cri_has_it(daemon: Daemon, index: Index) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _pull(daemon, index.reference, "gvisor", **{ANNOTATION: "vm"})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for said in ("'gvisor'", "configured: copied, runc, vm", "[image.runtime_platforms.NAME]"):
        assert said in caught.value.details()
    assert daemon.images() == []


@pytest.mark.parametrize(
    ("annotation", "handler"), [("vm", "vm"), ("gvisor", ""), ("", "")], ids=str
)
def test_the_sandboxes_annotation_by_crictl(
    daemon: Daemon,
    crictl_program: Path,
    index: Index,
    tmp_path: Path,
    annotation: str,
    handler: str,
) -> None:
    pod = tmp_path / "pod.json"
    annotations = {ANNOTATION: annotation} if annotation else {}
    metadata = {"name": "a", "uid": "b", "namespace": "c"}
    pod.write_text(json.dumps({"metadata": metadata, "annotations": annotations}))
    warned = _warnings(daemon)
    crictl = Crictl(crictl_program, daemon.endpoint)
    pulled = crictl.pull(index.reference, f"--pod-config={pod}")
    assert _listed(daemon) == {(pulled, handler)}
    assert pulled == (index.other if handler else index.host).id
    assert _warnings(daemon) - warned == (annotation == "gvisor")


def test_image_spec_counts_before_the_annotation(daemon: Daemon, index: Index) -> None:
    assert _pull(daemon, index.reference, "runc", **{ANNOTATION: "vm"}) == index.host.id
    assert _listed(daemon) == {(index.host.id, "runc")}
