"""What goes wrong at a registry: the right code, a message that says what and where, no trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from tests.real.test_kinds_of_images import mounted
from tests.support.daemon import Daemon, free_port
from tests.support.docker_registry import DockerRegistry
from tests.support.images import (
    Layer,
    archive,
    file,
    host_architecture,
    image,
    layer,
    random_bytes,
    sha256,
    with_wrong_diff_id,
)
from tests.support.leaks import MARK
from tests.support.store import contents, named

pytestmark = pytest.mark.real

FOREIGN = "s390x" if host_architecture() != "s390x" else "amd64"
CODE = grpc.StatusCode


class Refusal(NamedTuple):
    """How a pull failed."""

    code: grpc.StatusCode
    message: str


def refused(daemon: Daemon, reference: str, **auth: str) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        daemon.pull(reference, **auth)
    return Refusal(caught.value.code(), caught.value.details() or "")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(daemon: Daemon, busybox_reference: str) -> Iterator[None]:
    """Whatever a test here does, the store is the same afterwards, and another image unharmed."""
    daemon.pull(busybox_reference)
    daemon.cli("gc", "--resumable")
    before, shown = contents(daemon.root), daemon.images()
    yield
    daemon.cli("gc", "--resumable")
    after = contents(daemon.root)
    assert after.rows == before.rows
    assert after.files == before.files
    assert daemon.images() == shown
    assert daemon.metric("containerd_cri_in_progress_image_pulls_total") == 0


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "docker.io/UPPER/case",
        "name:",
        "name@sha256:short",
        "a b",
        f"name:{'t' * 129}",
        "sha256:" * 3,
    ],
)
def test_a_bad_reference(daemon: Daemon, reference: str) -> None:
    failures = daemon.metric('containerd_cri_image_pulls_total{status="failure"}')
    refusal = refused(daemon, reference)
    assert refusal.code is CODE.INVALID_ARGUMENT
    assert "reference" in refusal.message
    assert reference in refusal.message
    assert daemon.metric('containerd_cri_image_pulls_total{status="failure"}') == failures + 1


def test_an_unknown_tag(daemon: Daemon, registry: DockerRegistry, busybox_reference: str) -> None:
    reference = busybox_reference.replace(":1.35", ":9.99")
    refusal = refused(daemon, reference)
    assert refusal.code is CODE.NOT_FOUND
    assert reference in refusal.message
    assert registry.host in refusal.message


def test_an_unknown_repository(daemon: Daemon, registry: DockerRegistry) -> None:
    refusal = refused(daemon, f"{registry.host}/no/such/repository:1")
    assert refusal.code is CODE.NOT_FOUND
    assert "no/such/repository" in refusal.message


def test_a_registry_that_nobody_listens_at(daemon: Daemon) -> None:
    host = f"localhost:{free_port()}"
    refusal = refused(daemon, f"{host}/name:1")
    assert refusal.code is CODE.UNKNOWN
    assert refusal.message.startswith("RegistryUnavailable: ")
    assert host in refusal.message


def test_a_registry_whose_name_is_unknown(daemon: Daemon) -> None:
    refusal = refused(daemon, "registry.invalid/name:1")
    assert refusal.code is CODE.UNKNOWN
    assert refusal.message.startswith("RegistryUnavailable: ")
    assert "registry.invalid" in refusal.message


@pytest.mark.parametrize(
    "auth", [{}, {"username": "alice", "password": f"{MARK}-wrong"}], ids=["none", "wrong"]
)
def test_credentials_that_do_not_suffice(
    daemon: Daemon, private_registry: DockerRegistry, auth: dict[str, str]
) -> None:
    reference = private_registry.push(image(layer({"n": file("secret")})), "secret/app:1")
    refusal = refused(daemon, reference, **auth)
    assert refusal.code is CODE.UNAUTHENTICATED
    assert private_registry.host in refusal.message


def test_one_callers_success_gives_nothing_to_another(
    daemon: Daemon, private_registry: DockerRegistry
) -> None:
    made = image(layer({"n": file("shared by nobody")}))
    reference = private_registry.push(made, "secret/other:1")
    assert private_registry.login is not None
    login = {"username": "alice", "password": private_registry.login.password}
    assert daemon.pull(reference, **login) == made.id
    assert refused(daemon, reference).code is CODE.UNAUTHENTICATED
    assert refused(daemon, reference, username="alice", password=MARK).code is CODE.UNAUTHENTICATED
    daemon.remove(reference)


def test_no_manifest_for_this_platform(daemon: Daemon, registry: DockerRegistry) -> None:
    one, two = (
        replace(image(layer({"n": file(name)})), architecture=FOREIGN, variant=variant)
        for name, variant in (("a", ""), ("b", "v2"))
    )
    reference = registry.push(one, "foreign/index:1", two)
    refusal = refused(daemon, reference)
    assert refusal.code is CODE.NOT_FOUND
    assert f"linux/{host_architecture()}" in refusal.message
    assert f"linux/{FOREIGN}" in refusal.message


# --- layers ---------------------------------------------------------------------------------


def check_corrupt(daemon: Daemon, reference: str, *words: str) -> None:
    refusal = refused(daemon, reference)
    assert refusal.code is CODE.FAILED_PRECONDITION
    for word in words:
        assert word in refusal.message


def test_a_blob_damaged_at_the_registry(daemon: Daemon, registry: DockerRegistry) -> None:
    damaged = layer({"data": file(random_bytes(300_000))})
    reference = registry.push(image(layer({"fine": file("1")}), damaged), "corrupt/blob:1")
    path = registry.blob_path(sha256(damaged.blob))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    check_corrupt(daemon, reference, sha256(damaged.blob))


def test_a_config_that_lies_about_a_layer(daemon: Daemon, registry: DockerRegistry) -> None:
    lying = with_wrong_diff_id(layer({"data": file("x")}))
    reference = registry.push(image(lying), "corrupt/diffid:1")
    check_corrupt(daemon, reference, lying.diff_id)


def blob(data: bytes, good: Layer) -> Layer:
    return replace(good, blob=data)


GOOD = layer({"data": file(random_bytes(50_000)), "more": file("x")})


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(blob(GOOD.blob[:-20_000], GOOD), id="truncated gzip"),
        pytest.param(blob(b"\x1f\x8b\x08\x00 not gzip, but its magic", GOOD), id="no gzip"),
        pytest.param(layer(b"not an archive" * 100), id="no archive"),
        pytest.param(
            layer(layer({"data": file("x" * 5000)}, "none").blob[:2000], "zstd"),
            id="truncated archive",
        ),
    ],
)
def test_a_layer_that_is_no_layer(daemon: Daemon, registry: DockerRegistry, bad: Layer) -> None:
    reference = registry.push(image(layer({"fine": file("1")}), bad), "corrupt/layer:1")
    check_corrupt(daemon, reference, sha256(bad.blob))


def test_an_archive_without_an_end_marker(
    daemon: Daemon, registry: DockerRegistry, tmp_path: Path
) -> None:
    """Some writers leave it out. Where the diffID is right nothing is missing; else the layer was
    cut off between two entries."""
    whole = archive({"first": file("1"), "last": file("2")}).rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    unended = registry.push(image(layer(whole)), "odd/unended:1")
    daemon.pull(unended)
    with mounted(daemon, unended, tmp_path / "root") as root:
        assert (root / "last").read_text() == "2"
    daemon.remove(unended)
    cut = replace(layer(whole[:1024]), diff_id=sha256(whole))
    check_corrupt(
        daemon, registry.push(image(cut), "corrupt/cut:1"), "after the last entry 'first'"
    )


def test_an_entry_that_climbs_out_stays_inside(
    daemon: Daemon, registry: DockerRegistry, tmp_path: Path
) -> None:
    made = image(layer({"../../../../climbed": file("x"), "/absolute": file("y")}))
    reference = registry.push(made, "hostile/climbing:1")
    daemon.pull(reference)
    with mounted(daemon, reference, tmp_path / "root") as root:
        assert (root / "climbed").read_text() == "x"
        assert (root / "absolute").read_text() == "y"
    outside = [path for path in named(daemon.directory, "climbed") if path.parent.name != "fs"]
    assert outside == []
    assert not Path("/absolute").exists()
    daemon.remove(reference)
