"""Docker schema 1, as skopeo pushes it and a registry of that time takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, Image, directory, file, hardlink, layer, symlink
from tests.support.oracle import mounted
from tests.support.require import require_real
from tests.support.trees import Entry, describe

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Built(Image):
    """An image whose history has steps without a layer, as docker build makes it."""

    @property
    def config(self) -> bytes:
        steps = [{"created": "2020-01-01T00:00:00Z", "created_by": "ADD"} for _ in self.layers]
        empty = {"created": "2020-01-01T00:00:00Z", "created_by": "ENV", "empty_layer": True}
        document = json.loads(super().config)
        history = [each for step in steps for each in (step, empty)]
        return json.dumps({**document, "history": history}).encode()


BUILT = Built(
    (
        layer({"etc": directory(), "etc/a": file("a"), "etc/b": symlink("a"), "gone": file("x")}),
        layer({"etc/c": file("c", mode=0o600, uid=7), ".wh.gone": WHITEOUT}),
        layer({"etc/a": file("changed"), "e": hardlink("etc/a")}),
    ),
    {"Cmd": ["/bin/true"], "User": "7"},
)


@pytest.fixture(scope="module")
def old_registry(scratch: Scratch) -> Iterator[DockerRegistry]:
    with DockerRegistry(scratch("old"), schema1=True) as running:
        yield running


@pytest.fixture(scope="module")
def reference(old_registry: DockerRegistry) -> str:
    pushed = old_registry.push(BUILT, "old/app:1", form="v2s1")
    document = json.loads(old_registry.manifest(pushed))
    assert document["schemaVersion"] == 1
    assert len(document["fsLayers"]) == 6
    return pushed


@pytest.fixture(scope="module")
def daemon(scratch: Scratch) -> Iterator[Daemon]:
    require_real(os.geteuid() == 0, "only root can mount")
    with Daemon(scratch("schema1"), image_options="enable_schema1 = true") as running:
        yield running


def _tree(daemon: Daemon, name: str) -> dict[str, Entry]:
    with mounted(daemon, name) as root:
        return describe(root)


def test_its_tree_is_that_of_the_schema_2_original(
    daemon: Daemon, old_registry: DockerRegistry, reference: str
) -> None:
    original = daemon.pull(old_registry.push(BUILT, "new/app:1", docker=True))
    wanted = _tree(daemon, original)
    for present in daemon.images():
        daemon.remove(present.id)
    daemon.collect_garbage()

    converted = daemon.pull(reference)
    assert converted != original
    assert _tree(daemon, converted) == wanted
    told = json.loads(daemon.cli("inspect", "-o", "json", reference).stdout)
    spec = told["info"]["info"]["imageSpec"]
    assert spec["config"]["Cmd"] == ["/bin/true"]
    assert spec["rootfs"]["diff_ids"] == [each.diff_id for each in BUILT.layers]
    assert [each.get("empty_layer", False) for each in spec["history"]] == [False, True] * 3
    assert spec["config"]["User"] == "7"

    daemon.stop()
    daemon.start()
    assert daemon.pull(reference) == converted, "the same, whenever it is converted"
    (shown,) = daemon.images()
    assert list(shown.repo_tags) == [reference]
    assert list(shown.repo_digests) == [], "no registry has it under the digest of what it became"
    assert "0 problems" in daemon.cli("check").stdout


def test_a_digest_is_that_of_the_signed_payload(
    daemon: Daemon, old_registry: DockerRegistry, reference: str
) -> None:
    by_digest = f"{reference.removesuffix(':1')}@{old_registry.digest(reference)}"
    image_id = daemon.pull(by_digest)
    shown = daemon.image(by_digest)
    assert shown is not None
    assert shown.id == image_id
    assert by_digest in shown.repo_digests


def test_it_is_off_by_default(scratch: Scratch, reference: str) -> None:
    with Daemon(scratch("schema1-off")) as running:
        with pytest.raises(grpc.RpcError, match=r"image\.enable_schema1"):
            running.pull(reference)
        assert running.images() == []
