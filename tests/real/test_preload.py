"""A node without a registry: a daemon that finds archives in its folder."""

from __future__ import annotations

import gzip
import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.test_archives import layout, tar_of
from tests.images.workbench import image_of, layer
from tests.support.daemon import Daemon
from tests.support.process import wait_until

pytestmark = pytest.mark.real


def archive(scratch: Path, name: str) -> bytes:
    return tar_of(layout(scratch / name.replace("/", "_"), name, image_of(layer(1))))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    top = tmp_path_factory.mktemp("preload")
    folder = top / "preload"
    folder.mkdir(mode=0o755)
    packed = gzip.compress(archive(top, "r.example/first:1"), 1)
    (folder / "first.tar.gz").write_bytes(packed)
    (folder / "bad.tar.gz").write_bytes(packed[:-30])
    options = f"""
[image.preload]
directory = "{folder}"
images = ["127.0.0.1:1/never:1"]
jitter = "0s"
ready = true
[image.gc]
max_age = "1h"
"""
    with Daemon(top / "node", "native", image_options=options) as running:
        yield running


def is_ready(daemon: Daemon) -> bool:
    try:
        daemon.metrics("/readyz")
    except urllib.error.HTTPError:
        return False
    return True


def test_a_node_gets_ready_with_what_its_folder_has(daemon: Daemon) -> None:
    wait_until(lambda: is_ready(daemon), "the node is ready", daemon.process)
    image = daemon.image("r.example/first:1")
    assert image is not None
    assert image.pinned
    shown = {
        each["name"]: each
        for each in json.loads(daemon.cli("status", "-o", "json").stdout)["preloads"]
    }
    assert {name: each["state"] for name, each in shown.items()} == {
        "first.tar.gz": "ready",
        "bad.tar.gz": "failed",
        "127.0.0.1:1/never:1": "failed",
    }
    text = daemon.cli("status")
    assert "first.tar.gz" in text.stdout
    assert "bad.tar.gz: archive: damaged" in text.stderr
    doctor = daemon.cli("doctor", "--config", str(daemon.config), check=False).stdout
    assert "bad.tar.gz cannot be preloaded: archive: damaged" in doctor
    assert "remedy: cri-imaged pull 127.0.0.1:1/never:1" in doctor
    assert daemon.metric('cri_imaged_preloads{state="failed"}') == 2
    assert daemon.metric('cri_imaged_preloads{state="ready"}') == 1
    told = [line for line in daemon.log_lines() if line.get("file") == "bad.tar.gz"]
    assert [line["level"] for line in told] == ["warning"]


def test_an_archive_that_is_moved_in_is_imported(daemon: Daemon, tmp_path: Path) -> None:
    folder = daemon.directory.parent / "preload"
    part = folder / ".second.tar.part"
    part.write_bytes(archive(tmp_path, "r.example/second:1"))
    part.rename(folder / "second.tar")
    wait_until(lambda: daemon.image("r.example/second:1"), "it is imported", daemon.process)
    assert json.loads(daemon.cli("gc", "--images", "--dry-run", "-o", "json").stdout) == {
        "removals": [],
        "enabled": True,
    }
    assert daemon.cli("gc", "--dry-run", check=False).returncode == 2


def test_a_reload_takes_over_the_list_and_the_caps(daemon: Daemon) -> None:
    text = daemon.config.read_text()
    daemon.config.write_text(
        text.replace("never:1", "other:1") + '\n[image.bandwidth]\nbytes_per_second = "1MiB"\n'
    )
    said = daemon.cli("config", "reload").stdout
    assert "image.preload.images" in said
    assert "image.bandwidth" in said
    names = [
        each["name"] for each in json.loads(daemon.cli("status", "-o", "json").stdout)["preloads"]
    ]
    assert "127.0.0.1:1/other:1" in names
    assert "127.0.0.1:1/never:1" not in names
