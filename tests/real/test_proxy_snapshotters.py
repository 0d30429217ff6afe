"""Layers that other programs keep: containerd's own snapshotter behind a real containerd, and one
that has layers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support.containerd import Containerd
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, directory, file, hardlink, sha256
from tests.support.oracle import Sample, mounted, reference_tree
from tests.support.process import wait_until
from tests.support.proxy_snapshotter import LAYER_DIGEST, REF, ProxySnapshotter
from tests.support.trees import describe, difference

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def sample() -> Sample:
    """Five layers. The second and the fourth only add and change; the others hide of them, too."""
    root = {".": directory(0o755), "d": directory(0o711, uid=3)}
    return Sample.of(
        {**root, "d/low": file("low"), "d/gone": file("x"), "e": directory(), "e/f": file("f")},
        {
            **root,
            "d": directory(0o750, uid=7),
            "d/two": file("2"),
            "e": directory(),
            "e/g": file("g"),
        },
        {
            **root,
            "d/.wh.gone": WHITEOUT,
            "d/.wh.two": WHITEOUT,
            "d/low3": file("3"),
            "d/link": hardlink("d/low3"),
        },
        {**root, "d/four": file("4"), "h": directory(), "h/below": file("b")},
        {
            **root,
            "h": directory(0o700),
            "h/.wh..wh..opq": WHITEOUT,
            "h/top": file("t"),
            "d/.wh.four": WHITEOUT,
        },
    )


@pytest.fixture(scope="module")
def reference(registry: DockerRegistry, sample: Sample) -> str:
    return registry.push(sample.image, "proxy/sample:1")


@contextmanager
def daemon_with(directory: Path, name: str, socket: Path, root: Path) -> Iterator[Daemon]:
    options = f"""
[image.pinned_images]
[proxy_snapshotters.{name}]
address = "{socket}"
root = "{root}"
"""
    with Daemon(directory, snapshotter=name, image_options=options) as running:
        yield running


@pytest.fixture
def proxy(scratch: Scratch) -> Iterator[ProxySnapshotter]:
    with ProxySnapshotter(scratch("proxy") / "p") as serving:
        yield serving


@pytest.fixture
def daemon(scratch: Scratch, proxy: ProxySnapshotter) -> Iterator[Daemon]:
    with daemon_with(scratch("daemon"), "lazy", proxy.socket, proxy.root) as running:
        yield running


def assert_as_the_oracle_says(daemon: Daemon, reference: str, sample: Sample) -> None:
    with mounted(daemon, reference) as root:
        assert difference(describe(root), reference_tree(sample.trees)) == []


def fetched(registry: DockerRegistry, sample: Sample, log_before: int) -> list[bool]:
    """Which layers were got from the registry since."""
    log = registry.log[log_before:]
    return [
        f'"GET /v2/proxy/sample/blobs/{sha256(layer.blob)}' in log for layer in sample.image.layers
    ]


def test_containerds_own_snapshotter_keeps_the_layers(
    scratch: Scratch, reference: str, sample: Sample
) -> None:
    containerd = Containerd(scratch("containerd") / "c", scratch("unused") / "s", "unused")
    with (
        containerd,
        daemon_with(scratch("daemon"), "overlayfs", containerd.socket, containerd.root) as daemon,
    ):

        def kept() -> list[str]:
            listed = containerd.ctr("snapshots", "--snapshotter", "overlayfs", "list")
            return [line.split()[0] for line in listed.splitlines()[1:]]

        image_id = daemon.pull(reference)
        assert_as_the_oracle_says(daemon, reference, sample)
        assert len(kept()) == len(sample.trees)
        assert not list((daemon.root / "snapshots").rglob("fs")), "none is here"
        daemon.kill()
        daemon.start()
        assert daemon.pull(reference) == image_id
        with mounted(daemon, reference, writable=True) as root:
            (root / "new").write_text("x")
            daemon.remove(image_id)
            assert (root / "new").read_text() == "x"
            assert len(kept()) == len(sample.trees) + 1
        wait_until(lambda: kept() == [], "all goes with the last view")


def test_what_it_has_is_neither_fetched_nor_unpacked(
    daemon: Daemon,
    proxy: ProxySnapshotter,
    registry: DockerRegistry,
    reference: str,
    sample: Sample,
) -> None:
    layers = sample.image.layers
    proxy.claims = {sha256(each.blob): each.blob for each in layers[1::2]}
    before = len(registry.log)
    image_id = daemon.pull(reference)
    assert fetched(registry, sample, before) == [True, False, True, False, True]
    assert_as_the_oracle_says(daemon, reference, sample)
    asked = [labels for labels in proxy.prepared if REF in labels]
    assert [labels[LAYER_DIGEST] for labels in asked] == [sha256(each.blob) for each in layers]
    second, prefix = asked[1], "containerd.io/snapshot/cri."
    assert second[f"{prefix}image-ref"] == reference
    assert second[f"{prefix}manifest-digest"] == registry.digest(reference)
    assert second[f"{prefix}image-layers"] == ",".join(sha256(each.blob) for each in layers[1:])
    assert second["containerd.io/snapshot/diff-id"] == layers[1].diff_id
    assert daemon.cli("check").returncode == 0
    count = len(proxy.prepared)
    assert daemon.pull(reference) == image_id
    assert len(proxy.prepared) == count, "nothing is asked for what is known"
    daemon.remove(image_id)
    wait_until(lambda: proxy.kept == {}, "the proxy is told to remove all")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("outside", "which is not below"),
        ("lie", "says that it has layers"),
    ],
)
def test_one_that_misbehaves_fails_the_pull(
    daemon: Daemon, proxy: ProxySnapshotter, reference: str, fault: str, said: str
) -> None:
    proxy.fault = fault
    with pytest.raises(grpc.RpcError, match=f"proxy snapshotter lazy: .*{said}"):
        daemon.pull(reference)
    assert daemon.images() == []
    proxy.fault = ""
    assert daemon.pull(reference)


def test_one_that_is_not_there_fails_the_pull_and_not_the_start(
    scratch: Scratch, reference: str, sample: Sample
) -> None:
    folder = scratch("proxy") / "p"
    with daemon_with(scratch("daemon"), "lazy", folder / "proxy.sock", folder) as daemon:
        with pytest.raises(grpc.RpcError, match=r"proxy snapshotter lazy at .*UNAVAILABLE"):
            daemon.pull(reference)
        with ProxySnapshotter(folder):
            wait_until(lambda: _pulls(daemon, reference), "it is found when it comes")
            assert_as_the_oracle_says(daemon, reference, sample)


def _pulls(daemon: Daemon, reference: str) -> bool:
    try:
        return bool(daemon.pull(reference))
    except grpc.RpcError:
        return False


def test_images_of_one_that_is_configured_no_more_are_made_anew_or_pulled(
    daemon: Daemon,
    proxy: ProxySnapshotter,
    registry: DockerRegistry,
    reference: str,
    sample: Sample,
) -> None:
    other = Sample.of({".": directory(0o755), "lazy": file("z")}).image
    lazily = registry.push(other, "proxy/lazily:1")
    whole = daemon.pull(reference)
    proxy.claims = {sha256(each.blob): each.blob for each in other.layers}
    daemon.pull(lazily)
    text = daemon.config.read_text()
    without = text[: text.index("[proxy_snapshotters")].replace('"lazy"', '"overlay"')
    daemon.stop()
    daemon.config.write_text(without)
    offline = ("check", "--offline", "--config", str(daemon.config))
    refused = daemon.cli(*offline, check=False)
    assert "proxy_snapshotters.lazy: is missing" in refused.stderr
    daemon.start()
    wait_until(lambda: daemon.image(whole), "what is here is unpacked")
    assert_as_the_oracle_says(daemon, reference, sample)
    assert daemon.image(lazily) is None, "nothing of it is here"
    assert daemon.pull(lazily)
    assert daemon.cli("check").returncode == 0
    daemon.stop()
    daemon.config.write_text(text)
    daemon.start()
    wait_until(lambda: proxy.kept == {}, "what was left over there goes")
    assert_as_the_oracle_says(daemon, reference, sample)
