"""podman and skopeo read our images from the additional image store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.support.crictl import Crictl
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.podman import Podman
from tests.support.process import wait_until
from tests.support.store import named

pytestmark = pytest.mark.real

RUN = ("run", "--rm", "--network=host")


@pytest.fixture
def podman(scratch: Scratch) -> Iterator[Podman]:
    directory = scratch("podman")
    podman = Podman(directory, directory / "store")
    yield podman
    podman.close()


@pytest.fixture
def publishing(scratch: Scratch, podman: Podman) -> Iterator[Daemon]:
    """A daemon that publishes for `podman`."""
    options = f"""
[image.gc]
max_age = "1h"
[image.pinned_images]
[runtime.containers_storage]
path = "{podman.store}"
graph_root = "{podman.graph_root}"
"""
    with Daemon(scratch("publishing"), image_options=options) as running:
        images = podman.store / "overlay-images" / "images.json"
        wait_until(images.exists, "the store is there", running.process)
        yield running


def test_podman_lists_inspects_and_runs_what_we_pulled(
    publishing: Daemon, podman: Podman, app: Pushed
) -> None:
    image_id = publishing.pull(app.reference)
    (listed,) = podman.images()
    assert listed["Id"] == image_id.removeprefix("sha256:")
    assert app.reference in listed["Names"]
    assert listed["ReadOnly"]
    assert podman(*RUN, app.reference) == "hello\n"
    assert "drwxr-x---" in podman(*RUN, app.reference, "/bin/ls", "-ld", "/srv")
    assert podman.run(*RUN, app.reference, "/bin/ls", "/srv/gone").returncode != 0
    assert podman(*RUN, app.reference, "/bin/sh", "-c", "echo x > /new; cat /new") == "x\n"
    (inspected,) = json.loads(podman("image", "inspect", app.reference))
    assert inspected["RootFS"]["Layers"] == [layer.diff_id for layer in app.image.layers]
    assert not list((podman.graph_root / "overlay").rglob("busybox")), "no copy of a layer"
    said = podman.skopeo(app.reference)
    assert len(said["Layers"]) == len(app.image.layers)


def test_an_image_whose_config_podman_cannot_read_keeps_no_other_from_it(
    publishing: Daemon, podman: Podman, app: Pushed, registry: DockerRegistry
) -> None:
    publishing.pull(app.reference)
    publishing.pull(registry.push(replace(app.image, created="yesterday"), "node/odd:1"))
    (listed,) = podman.images()
    assert app.reference in listed["Names"]
    assert podman(*RUN, app.reference) == "hello\n"


def test_an_image_is_withdrawn_with_us_and_not_under_a_container(
    publishing: Daemon, podman: Podman, app: Pushed
) -> None:
    image_id = publishing.pull(app.reference)
    container = podman("create", "--network=host", app.reference).strip()
    publishing.remove(image_id)
    publishing.cli("gc", "--resumable")
    assert [each["Id"] for each in podman.images()] == [image_id.removeprefix("sha256:")]
    assert podman("start", "--attach", container) == "hello\n"
    publishing.stop()
    publishing.start()
    assert podman("start", "--attach", container) == "hello\n", "across a restart of ours too"
    podman("rm", container)
    wait_until(lambda: not podman.images(), "nobody uses it, and it is withdrawn")
    wait_until(lambda: not named(publishing.root, "busybox"), "its space comes back")
    assert publishing.cli("check").returncode == 0


def test_the_nodes_policy_leaves_alone_what_a_container_runs_from(
    publishing: Daemon, podman: Podman, app: Pushed
) -> None:
    publishing.pull(app.reference)
    publishing.stop()
    with closing(sqlite3.connect(publishing.root / "metadata.db")) as database, database:
        database.executescript(
            "UPDATE images SET created = 1, used = 1; UPDATE names SET updated = 1"
        )
    publishing.start()

    def removals(*more: str) -> list[str]:
        found = json.loads(publishing.cli("gc", "--images", "-o", "json", *more).stdout)
        return [name for each in found["removals"] for name in each["names"]]

    assert app.reference in removals("--dry-run")
    container = podman("create", "--network=host", app.reference).strip()
    assert removals() == []
    assert podman("start", "--attach", container) == "hello\n"
    podman("rm", container)


def test_image_ids_can_be_shown_as_crio_takes_them(
    scratch: Scratch, crictl_program: Path, app: Pushed
) -> None:
    options = '[image.pinned_images]\n[runtime]\nimage_id_format = "hex"\n'
    with Daemon(scratch("hex"), image_options=options) as daemon:
        crictl = Crictl(crictl_program, daemon.endpoint)
        bare = app.image.id.removeprefix("sha256:")
        assert crictl.pull(app.reference) == bare
        assert [each["id"] for each in crictl.json("images")["images"]] == [bare]
        assert crictl.json("inspecti", bare)["status"]["id"] == bare
        crictl("rmi", app.image.id)
        assert daemon.images() == [], "requests take both forms"
