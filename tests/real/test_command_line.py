"""What people type, against a daemon and registries as they run them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, host_architecture, image, layer
from tests.support.leaks import MARK
from tests.support.require import require_real

pytestmark = pytest.mark.real

OTHER = "arm64" if host_architecture() == "amd64" else "amd64"
BASE = layer({"base": file("b" * 100_000)})
APP = replace(image(BASE, layer({"app": file("1")})), created="2026-01-31T12:00:00.5+01:00")
TOOL = replace(image(BASE), created="no time at all")


@pytest.fixture(scope="module")
def logins(scratch: Scratch) -> Path:
    return scratch("logins") / "auth.json"


@pytest.fixture(scope="module")
def daemon(scratch: Scratch, logins: Path) -> Iterator[Daemon]:
    require_real(os.geteuid() == 0, "only root can chroot")
    options = f"""
[image.registry]
docker_config = "{logins}"

[[image.verification.policy]]
match = "registry.invalid/closed"
require = "reject"
"""
    with Daemon(
        scratch("cli"), snapshotter="native", image_options=options, metrics_options="page = true"
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty_store(daemon: Daemon) -> None:
    for present in daemon.images():
        daemon.remove(present.id)


def names(daemon: Daemon) -> set[str]:
    return {tag for present in daemon.images() for tag in present.repo_tags}


def test_tags_are_given_moved_and_removed_with_their_image(
    daemon: Daemon, registry: DockerRegistry
) -> None:
    app, tool = registry.push(APP, "cli/app:1"), registry.push(TOOL, "cli/tool:1")
    daemon.cli("pull", "-q", app, tool)
    told = daemon.cli("tag", app, "registry.invalid/team/app").stdout
    assert told == f"registry.invalid/team/app:latest is {APP.id}\n"
    assert names(daemon) == {app, tool, "registry.invalid/team/app:latest"}
    daemon.cli("tag", TOOL.id, "registry.invalid/team/app:latest")
    moved = daemon.image("registry.invalid/team/app")
    assert moved is not None
    assert moved.id == TOOL.id
    daemon.cli("rm", "registry.invalid/team/app")
    assert names(daemon) == {app}


def test_a_tag_alone_is_taken_from_an_image(daemon: Daemon, registry: DockerRegistry) -> None:
    app, other = registry.push(APP, "cli/app:1"), "registry.invalid/team/app:1"
    daemon.cli("pull", "-q", app)
    daemon.cli("tag", app, other)
    assert daemon.cli("untag", other).stdout == f"{other} was {APP.id}\n"
    assert names(daemon) == {app}
    for no_tag in (other, APP.id, APP.id[:20]):
        ran = daemon.cli("untag", no_tag, check=False)
        assert ran.returncode == 3
        assert f"{no_tag} is no tag" in ran.stderr
    daemon.cli("untag", app)
    daemon.cli("gc")
    (left,) = daemon.images()
    assert (left.id, list(left.repo_tags)) == (APP.id, []), "the last one too"
    assert daemon.cli("rm", APP.id).stdout == f"removed {APP.id}\n"


def test_names_that_an_image_does_not_get(daemon: Daemon, registry: DockerRegistry) -> None:
    app = registry.push(APP, "cli/app:1")
    daemon.pull(app)
    for name, code, says in (
        ("registry.invalid/closed/app", 1, "rejects it"),
        (f"registry.invalid/app@{APP.id}", 2, "give a tag"),
        ("UPPER", 2, "lower case"),
    ):
        ran = daemon.cli("tag", app, name, check=False)
        assert (ran.returncode, ran.stdout) == (code, "")
        assert says in ran.stderr
        assert names(daemon) == {app}
    assert daemon.cli("tag", "absent", "app:1", check=False).returncode == 3


def test_when_images_were_built_and_what_they_share(
    daemon: Daemon, registry: DockerRegistry
) -> None:
    app, tool = registry.push(APP, "cli/app:1"), registry.push(TOOL, "cli/tool:1")
    daemon.cli("pull", "-q", app, tool)
    template = "{{.Repository}}:{{.Tag}} {{.CreatedAt}}"
    shown = daemon.cli("images", "--format", template).stdout.splitlines()
    assert shown == [f"{app} 2026-01-31 11:00:00 +0000 UTC", f"{tool} "]
    shares = {
        each["repo_tags"][0]: each
        for each in json.loads(daemon.cli("df", "-o", "json").stdout)["images"]
    }
    shared = {each["bytes"] - each["unique_bytes"] for each in shares.values()}
    assert len(shared) == 1
    assert shared.pop() > 100_000
    assert 0 < shares[tool]["unique_bytes"] < shares[app]["unique_bytes"] < 100_000


def test_a_history_tells_what_each_layer_brought(daemon: Daemon, registry: DockerRegistry) -> None:
    daemon.pull(registry.push(APP, "cli/app:1"))
    facts = json.loads(daemon.cli("inspect", "-o", "json", APP.id).stdout)["info"]["info"]
    assert facts["layerSizes"] == [len(each.blob) for each in APP.layers]


def test_a_pull_for_another_platform_and_back(daemon: Daemon, registry: DockerRegistry) -> None:
    other = replace(image(layer({"arch": file("other")})), architecture=OTHER)
    reference = registry.push(APP, "cli/index:1", other)
    platform = ("--platform", f"linux/{OTHER}")
    pulled = daemon.cli("pull", "-q", *platform, reference)
    assert (pulled.stdout, pulled.stderr) == (f"{other.id}\n", ""), "it is what was asked for"
    assert daemon.cli("pull", "-q", reference).stdout == f"{APP.id}\n"
    assert daemon.cli("pull", "-q", "--platform", "linux/s390x", reference, check=False).returncode
    assert daemon.cli("pull", "-q", "--platform", "?", reference, check=False).returncode == 2
    alone = registry.push(APP, "cli/alone:1")
    said = daemon.cli("pull", "-q", *platform, alone).stderr
    assert said.endswith(f", it was pulled for linux/{OTHER}\n"), "where there is no other image"


def test_all_tags_of_a_repository(daemon: Daemon, registry: DockerRegistry) -> None:
    wanted = {registry.push(APP, "cli/all:1"), registry.push(TOOL, "cli/all:2")}
    registry.push(TOOL, "cli/else:1")
    daemon.cli("pull", "-q", "--all-tags", f"{registry.host}/cli/all")
    assert names(daemon) == wanted
    ran = daemon.cli("pull", "--all-tags", f"{registry.host}/cli/all:1", check=False)
    assert ran.returncode == 2
    ran = daemon.cli("pull", "--all-tags", f"{registry.host}/cli/nothing", check=False)
    assert ran.returncode == 3


def test_the_node_logs_in_and_out(
    daemon: Daemon, private_registry: DockerRegistry, logins: Path
) -> None:
    reference = private_registry.push(APP, "cli/private:1")
    login = private_registry.login
    assert login is not None
    assert daemon.cli("pull", "-q", reference, check=False).returncode == 5
    assert _login(daemon, private_registry.host, login.username, f"{MARK} wrong") == 5
    assert not logins.exists()
    assert _login(daemon, private_registry.host, login.username, login.password) == 0
    assert stat.S_IMODE(logins.stat().st_mode) == 0o600
    assert daemon.cli("pull", "-q", reference).stdout == f"{APP.id}\n"
    daemon.cli("logout", private_registry.host)
    assert daemon.cli("pull", "-q", reference, check=False).returncode == 5


def test_the_page_shows_a_pull_that_has_ended(daemon: Daemon, registry: DockerRegistry) -> None:
    app = registry.push(APP, "cli/page:1")
    daemon.cli("pull", "-q", app)
    assert "<title>cri-imaged</title>" in daemon.metrics("/")
    events = {}
    url = f"http://127.0.0.1:{daemon.metrics_port}/events"
    with urllib.request.urlopen(url, timeout=30) as stream:
        while events.keys() != {"event: past", "event: now"}:
            name, data = (stream.readline().decode().strip() for _ in range(2))
            events[name] = json.loads(data.removeprefix("data: "))
            assert stream.readline() == b"\n"
    newest = events["event: past"]["pulls"][0]
    assert (newest["reference"], newest["outcome"]) == (app, "success")
    assert {stage["name"] for stage in newest["stages"]} >= {"resolving", "fetching"}
    assert registry.host in {each["host"] for each in events["event: past"]["hosts"]}
    assert events["event: now"]["running"] == []


def _login(daemon: Daemon, registry: str, user: str, password: str) -> int:
    """The command's exit code."""
    ran = subprocess.run(
        [daemon.program, "login", "-u", user, "--password-stdin", registry],
        env={**os.environ, "CRI_IMAGED_ADDRESS": str(daemon.socket)},
        input=password,
        text=True,
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert password not in ran.stdout + ran.stderr
    return ran.returncode
