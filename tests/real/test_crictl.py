"""The real crictl doing everything that an image endpoint is for."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.real.conftest import Scratch
from tests.support.crictl import Crictl
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry, Login
from tests.support.images import Image, file, image, layer
from tests.support.leaks import MARK

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _empty_store(empty_daemon: Daemon) -> None:
    """Every test here begins with no image."""


@pytest.fixture(scope="session")
def untagged(registry: DockerRegistry) -> tuple[str, Image]:
    """(name without a tag, what its `latest` is)."""
    made = image(layer({"name": file("latest")}))
    return registry.push(made, "team/app:latest").removesuffix(":latest"), made


# --- pull -----------------------------------------------------------------------------------


def test_pull_by_tag(crictl: Crictl, busybox_reference: str, busybox: Image) -> None:
    assert crictl.pull(busybox_reference) == busybox.id
    assert crictl.tags() == {busybox_reference}


def test_pull_by_digest_has_no_tag(
    crictl: Crictl, registry: DockerRegistry, busybox_reference: str, busybox: Image
) -> None:
    name = busybox_reference.removesuffix(":1.35")
    by_digest = f"{name}@{registry.digest(busybox_reference)}"
    assert crictl.pull(by_digest) == busybox.id
    (shown,) = crictl.json("images")["images"]
    assert shown["repoTags"] == []
    assert shown["repoDigests"] == [by_digest]


def test_pull_without_a_tag_means_latest(crictl: Crictl, untagged: tuple[str, Image]) -> None:
    name, made = untagged
    assert crictl.pull(name) == made.id
    assert crictl.tags() == {f"{name}:latest"}


def test_pull_with_right_credentials(
    crictl: Crictl, private_registry: DockerRegistry, busybox: Image
) -> None:
    reference = private_registry.push(busybox, "secret/busybox:1")
    login = Login()
    assert crictl.pull(reference, f"--creds={login.username}:{login.password}") == busybox.id


def test_pull_with_wrong_credentials(
    crictl: Crictl, private_registry: DockerRegistry, busybox: Image, daemon: Daemon
) -> None:
    reference = private_registry.push(busybox, "secret/busybox:1")
    run = crictl.run("pull", f"--creds=alice:{MARK}-wrong", reference)
    assert run.returncode != 0
    assert "Unauthenticated" in run.stderr
    assert private_registry.host in run.stderr
    assert daemon.images() == []


def test_pull_timeout_of_a_millisecond(
    crictl: Crictl, busybox_reference: str, daemon: Daemon
) -> None:
    run = crictl.run("pull", "--pull-timeout=1ms", busybox_reference)
    assert run.returncode != 0
    assert "DeadlineExceeded" in run.stderr
    assert daemon.images() == []
    assert daemon.cli("gc", "--resumable").returncode == 0
    assert daemon.metric("containerd_cri_in_progress_image_pulls_total") == 0


def test_pull_again_is_up_to_date(crictl: Crictl, busybox_reference: str, busybox: Image) -> None:
    assert [crictl.pull(busybox_reference) for _ in range(2)] == [busybox.id] * 2


# --- images and inspecti --------------------------------------------------------------------


def test_images_finds_by_every_kind_of_name(
    crictl: Crictl, busybox_reference: str, busybox: Image, untagged: tuple[str, Image]
) -> None:
    crictl.pull(busybox_reference)
    crictl.pull(untagged[0])
    assert crictl.tags() == {busybox_reference, f"{untagged[0]}:latest"}
    (digest,) = crictl.json("images", busybox_reference)["images"][0]["repoDigests"]
    for name in (busybox_reference, digest, busybox.id, busybox.id.removeprefix("sha256:")[:12]):
        assert crictl.tags(name) == {busybox_reference}, name
    assert crictl.tags(untagged[0]) == {f"{untagged[0]}:latest"}
    assert crictl.tags("no/such/image") == set()


def test_images_as_people_see_it(
    crictl: Crictl, registry: DockerRegistry, busybox_reference: str, busybox: Image
) -> None:
    crictl.pull(busybox_reference)
    table = crictl("images", "--digests").splitlines()
    assert table[0].split() == ["IMAGE", "TAG", "DIGEST", "IMAGE", "ID", "SIZE"]
    (row,) = table[1:]
    name, tag, digest, image_id, size = row.split()
    assert (name, tag) == (busybox_reference.removesuffix(":1.35"), "1.35")
    assert registry.digest(busybox_reference).removeprefix("sha256:").startswith(digest[:12])
    assert busybox.id.removeprefix("sha256:").startswith(image_id)
    assert size.endswith("MB")


@pytest.mark.parametrize("kind", ["tag", "digest", "ID", "bare ID", "truncated ID"])
def test_inspecti_by_every_kind_of_name(
    crictl: Crictl, registry: DockerRegistry, busybox_reference: str, busybox: Image, kind: str
) -> None:
    crictl.pull(busybox_reference)
    repository = busybox_reference.removesuffix(":1.35")
    bare = busybox.id.removeprefix("sha256:")
    name = {
        "tag": busybox_reference,
        "digest": f"{repository}@{registry.digest(busybox_reference)}",
        "ID": busybox.id,
        "bare ID": bare,
        "truncated ID": bare[:13],
    }[kind]
    shown = crictl.json("inspecti", name)
    status = shown["status"]
    assert status["id"] == busybox.id
    assert status["repoTags"] == [busybox_reference]
    assert int(status["size"]) == busybox.size
    assert status["uid"]["value"] == "1000"
    info = shown["info"]
    assert info["chainID"] == busybox.chain_id
    assert info["imageSpec"]["config"]["Cmd"] == ["/bin/cat", "/etc/motd"]
    assert info["imageSpec"]["architecture"] == busybox.architecture


def test_labels_that_tools_read(
    crictl: Crictl, daemon: Daemon, registry: DockerRegistry, busybox_reference: str, busybox: Image
) -> None:
    crictl.pull(busybox_reference)
    ours = json.loads(daemon.cli("inspect", "-o", "json", busybox_reference).stdout)["info"]["info"]
    theirs = crictl.json("inspecti", busybox_reference)["info"]
    for told in (ours, theirs):
        assert told["labels"] == {"io.cri-containerd.image": "managed"}
        content = {each["digest"]: each["labels"] for each in told["content"]}
        assert len(content) == 4
        assert {each.diff_id for each in busybox.layers} == {
            labels["containerd.io/uncompressed"]
            for labels in content.values()
            if "containerd.io/uncompressed" in labels
        }
        for labels in content.values():
            source = labels[f"containerd.io/distribution.source.{registry.host}"]
            assert source == "library/busybox"


def test_inspecti_as_yaml(crictl: Crictl, busybox_reference: str, busybox: Image) -> None:
    crictl.pull(busybox_reference)
    shown = crictl("inspecti", "--output=yaml", busybox_reference)
    assert f"chainID: {busybox.chain_id}" in shown
    assert f"id: {busybox.id}" in shown


def test_inspecti_of_an_unknown_image(crictl: Crictl) -> None:
    run = crictl.run("inspecti", "no/such/image")
    assert run.returncode != 0
    assert "no such image" in run.stderr


def test_a_moved_tag_leaves_the_old_image(crictl: Crictl, registry: DockerRegistry) -> None:
    old, new = (image(layer({"version": file(text)})) for text in ("1", "2"))
    reference = registry.push(old, "moving:tag")
    crictl.pull(reference)
    registry.push(new, "moving:tag")
    crictl.pull(reference)
    tags = {shown["id"]: shown["repoTags"] for shown in crictl.json("images")["images"]}
    assert tags == {new.id: [reference], old.id: []}


# --- rmi ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["tag", "ID"])
def test_rmi_removes_the_image_with_all_its_names(
    crictl: Crictl, registry: DockerRegistry, busybox_reference: str, busybox: Image, by: str
) -> None:
    second = registry.push(busybox, "other/name:2")
    crictl.pull(busybox_reference)
    crictl.pull(second)
    assert crictl.tags() == {busybox_reference, second}
    answer = crictl("rmi", busybox_reference if by == "tag" else busybox.id)
    assert f"Deleted: {second}" in answer
    assert crictl.json("images")["images"] == []


def test_rmi_all(crictl: Crictl, busybox_reference: str, untagged: tuple[str, Image]) -> None:
    crictl.pull(busybox_reference)
    crictl.pull(untagged[0])
    crictl("rmi", "--all")
    assert crictl.json("images")["images"] == []


def test_removing_what_is_not_there_succeeds(daemon: Daemon) -> None:
    daemon.remove("no/such/image:1")


def test_rmi_prune_keeps_pinned_images(
    crictl_program: Path, scratch: Scratch, daemon: Daemon, registry: DockerRegistry
) -> None:
    names = ("pause:3", "job:1", "team/a:1", "asked:1", "given-back:1")
    named, other, matched, asked, given_back = (
        registry.push(image(layer({"n": file(name)})), name) for name in names
    )
    options = f'pinned_images = {{ sandbox = "{named}", team = "{registry.host}/team/*" }}'
    with Daemon(
        scratch("pinned"), snapshotter=daemon.snapshotter, image_options=options
    ) as pinning:
        crictl = Crictl(crictl_program, pinning.endpoint)
        for each in (named, other, matched, asked, given_back):
            crictl.pull(each)
        pinning.cli("pin", asked, given_back)
        pinning.cli("unpin", given_back)
        pinning.stop()
        pinning.start()
        crictl("rmi", "--prune")
        assert crictl.tags() == {named, matched, asked}
        assert all(each["pinned"] for each in crictl.json("images")["images"])
        crictl("rmi", asked)
        crictl.pull(asked)
        crictl("rmi", "--prune")
        assert crictl.tags() == {named, matched, asked}


# --- the endpoint itself --------------------------------------------------------------------


def test_imagefsinfo_counts_what_is_pulled(
    crictl: Crictl, daemon: Daemon, busybox_reference: str, busybox: Image
) -> None:
    def usage() -> tuple[int, int]:
        entry = crictl.json("imagefsinfo")["status"]["imageFilesystems"][0]
        mountpoint = Path(entry["fsId"]["mountpoint"])
        assert mountpoint.is_dir()
        assert mountpoint.is_relative_to(daemon.root)
        return int(entry["usedBytes"]["value"]), int(entry["inodesUsed"]["value"])

    assert usage()[0] >= 0
    before = usage()
    crictl.pull(busybox_reference)
    after = usage()
    # At least the compressed blobs and the one big program, unpacked.
    program = len(busybox.layers[0].blob)
    assert after[0] - before[0] > busybox.size + program
    assert after[1] > before[1]
    crictl("rmi", busybox_reference)
    daemon.cli("gc", "--resumable")
    assert usage() == before


def test_info_says_ready(crictl: Crictl) -> None:
    conditions = json.loads(crictl("info"))["status"]["conditions"]
    ready = {condition["type"]: condition["status"] for condition in conditions}
    assert ready["RuntimeReady"] is True
    assert ready["NetworkReady"] is True


def test_version(crictl: Crictl) -> None:
    lines = dict(line.split(":", 1) for line in crictl("version").splitlines())
    assert lines["RuntimeName"].strip() == "cri-imaged"
    assert lines["RuntimeApiVersion"].strip() == "v1"
    assert lines["Version"].strip()
    assert lines["RuntimeVersion"].strip()


def test_ps_shows_no_container(crictl: Crictl) -> None:
    assert crictl.json("ps", "--all") == {"containers": []}


def test_other_runtime_methods_are_refused_with_a_reason(crictl: Crictl) -> None:
    run = crictl.run("pods")
    assert run.returncode != 0
    assert "Unimplemented" in run.stderr


def test_stream_images_gives_every_image_once(
    crictl: Crictl, daemon: Daemon, busybox_reference: str, untagged: tuple[str, Image]
) -> None:
    crictl.pull(busybox_reference)
    crictl.pull(untagged[0])
    with daemon.channel() as channel:
        stream = api_pb2_grpc.ImageServiceStub(channel).StreamImages(
            api_pb2.StreamImagesRequest(), timeout=10
        )
        batches = [list(answer.images) for answer in stream]
    assert all(batches)
    streamed = [shown.id for batch in batches for shown in batch]
    assert sorted(streamed) == sorted(shown.id for shown in daemon.images())


def test_a_truncated_id_of_two_images_is_refused(
    crictl: Crictl, daemon: Daemon, busybox_reference: str, registry: DockerRegistry
) -> None:
    crictl.pull(busybox_reference)
    first = daemon.images()[0].id.removeprefix("sha256:")[0]
    numbered = (image(layer({"n": file(str(n))})) for n in range(1000))
    twin = next(made for made in numbered if made.id.removeprefix("sha256:")[0] == first)
    crictl.pull(registry.push(twin, "twin:1"))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.image(f"sha256:{first}")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
