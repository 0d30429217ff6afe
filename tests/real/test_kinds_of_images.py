"""Images as registries have them: OCI and Docker, gzip and zstd, one platform and many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import (
    Compression,
    Image,
    directory,
    file,
    hardlink,
    host_architecture,
    image,
    layer,
    sha256,
    symlink,
)

pytestmark = pytest.mark.real


def sample(compression: Compression, name: str) -> Image:
    lower = {
        "etc": directory(),
        "etc/name": file(name),
        "etc/link": symlink("name"),
        "etc/twin": hardlink("etc/name"),
        "keep": file("kept"),
        "gone": file("hidden by the upper layer"),
    }
    return image(layer(lower, compression), layer({".wh.gone": file("")}, compression))


@contextmanager
def mounted(daemon: Daemon, name: str, at: Path) -> Iterator[Path]:
    at.mkdir()
    daemon.cli("mount", name, str(at))
    try:
        yield at
    finally:
        daemon.cli("umount", str(at))
        assert f" {at} " not in Path("/proc/self/mounts").read_text()


def check_sample(daemon: Daemon, reference: str, at: Path, name: str) -> None:
    with mounted(daemon, reference, at) as root:
        assert (root / "etc/name").read_text() == name
        assert (root / "etc/link").readlink() == Path("name")
        assert (root / "etc/twin").samefile(root / "etc/name")
        assert (root / "keep").exists()
        assert not (root / "gone").exists()
        assert not list(root.rglob(".wh.*"))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_oci_layers(
    daemon: Daemon, registry: DockerRegistry, tmp_path: Path, compression: Compression
) -> None:
    made = sample(compression, f"oci {compression}")
    reference = registry.push(made, f"kinds/oci:{compression}")
    assert daemon.pull(reference) == made.id
    check_sample(daemon, reference, tmp_path / "root", f"oci {compression}")


def test_docker_schema_2(daemon: Daemon, registry: DockerRegistry, tmp_path: Path) -> None:
    reference = registry.push(sample("gzip", "docker"), "kinds/docker:1", docker=True)
    manifest = json.loads(registry.manifest(reference))
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert daemon.pull(reference) == manifest["config"]["digest"]
    shown = daemon.image(reference)
    assert shown is not None
    assert list(shown.repo_digests) == [
        f"{reference.removesuffix(':1')}@{registry.digest(reference)}"
    ]
    check_sample(daemon, reference, tmp_path / "root", "docker")


@pytest.mark.parametrize("docker", [False, True], ids=["index", "manifest list"])
def test_the_hosts_platform_is_chosen(
    daemon: Daemon, registry: DockerRegistry, tmp_path: Path, docker: bool
) -> None:
    host, other = sample("gzip", "host"), sample("gzip", "other")
    foreign = "s390x" if host_architecture() != "s390x" else "amd64"
    name = f"kinds/multi:{'docker' if docker else 'oci'}"
    reference = registry.push(replace(other, architecture=foreign), name, host, docker=docker)
    document = registry.manifest(reference)
    manifests = json.loads(document)["manifests"]
    (chosen,) = (m for m in manifests if m["platform"]["architecture"] == host_architecture())
    manifest = json.loads(registry.blob_path(chosen["digest"]).read_bytes())
    assert daemon.pull(reference) == manifest["config"]["digest"]
    shown = daemon.image(reference)
    assert shown is not None
    # The repo digest is the index's, and the size counts it.
    assert shown.repo_digests[0].endswith(sha256(document))
    parts = [chosen, manifest["config"], *manifest["layers"]]
    assert shown.size == len(document) + sum(part["size"] for part in parts)
    check_sample(daemon, reference, tmp_path / "root", "host")


def test_a_shared_layer_is_kept_once(daemon: Daemon, registry: DockerRegistry) -> None:
    shared = layer({"shared": file("s" * 100_000)})
    images = [image(shared, layer({"own": file(str(number))})) for number in range(2)]
    for number, made in enumerate(images):
        daemon.pull(registry.push(made, f"kinds/sharing:{number}"))
    blobs = list(daemon.root.glob(f"content/blobs/sha256/{sha256(shared.blob)[7:]}"))
    assert len(blobs) == 1
    daemon.remove(images[0].id)
    daemon.cli("gc")
    assert blobs[0].exists()
    daemon.remove(images[1].id)
    daemon.cli("gc")
    assert not blobs[0].exists()
