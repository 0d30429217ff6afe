"""A changed configuration, taken over by a daemon that runs."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.config import Config, default_config, load_config
from cri_imaged.errors import NoSpaceError
from cri_imaged.limits import BUILT_IN, Limits
from cri_imaged.process import background
from cri_imaged.reloading import RELOADABLE, Reloader, differences, taken_over
from tests.support.daemon import Daemon
from tests.support.images import file, image, layer, write_layout
from tests.support.process import wait_until

NAME = "registry.example/team/app:1"


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(file, privileged=True)


def test_differences_are_named_by_key(tmp_path: Path) -> None:
    old = default_config(privileged=True)
    new = configured(
        tmp_path,
        'root = "/a"\n[debug]\nlevel = "warn"\n[image.limits]\nlayers = 3\nrunning_pulls = 3\n'
        '[image.gc]\nmax_age = "1h"\nkeep = ["a"]\n'
        '[image.registry.configs."r.example".auth]\nusername = "u"\n',
    )
    assert list(differences(old, old)) == []
    assert set(differences(old, new)) == {
        "root",
        "debug.level",
        "image.gc",
        "image.limits.layers",
        "image.limits.running_pulls",
        "image.registry.configs",
    }
    mixed = taken_over(old, new)
    assert set(differences(mixed, new)) == {"root", "image.limits.running_pulls"}
    assert set(differences(old, mixed)) <= RELOADABLE


async def test_a_reload_that_fails_is_not_the_last_one(tmp_path: Path) -> None:
    old, new = (configured(tmp_path, f'[debug]\nlevel = "{level}"\n') for level in ("info", "warn"))
    tried, wanted = asyncio.Event(), asyncio.Event()

    async def apply(_: Config) -> None:
        tried.set()
        raise NoSpaceError("the metadata cannot be written")

    reloader = Reloader(old, lambda: new, apply)
    async with background(reloader.follow(wanted)):
        for _ in range(2):
            tried.clear()
            wanted.set()
            async with asyncio.timeout(60):
                await tried.wait()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "d", snapshotter="native") as running:
        yield running


def told(daemon: Daemon, event: str) -> list[dict[str, object]]:
    return [line for line in daemon.log_lines() if line["event"] == event]


def test_a_hang_up_reloads_and_a_wrong_file_changes_nothing(daemon: Daemon) -> None:
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace('level = "debug"', 'level = "error"') + "nonsense = 1\n")
    daemon.process.send(signal.SIGHUP)
    wait_until(lambda: told(daemon, "configuration not reloaded"), "the reload fails")
    [line] = told(daemon, "configuration not reloaded")
    assert "nonsense" in str(line["problems"])
    daemon.config.write_text(text.replace('level = "debug"', 'level = "info"'))
    daemon.process.send(signal.SIGHUP)
    wait_until(lambda: told(daemon, "configuration reloaded"), "the reload")
    [line] = told(daemon, "configuration reloaded")
    assert (line["changed"], line["needs_restart"]) == (["debug.level"], [])
    assert daemon.images() == []


def test_a_client_is_told_what_changed_and_what_takes_a_restart(daemon: Daemon) -> None:
    assert daemon.cli("config", "reload").stdout == "nothing has changed\n"
    drop_ins = daemon.config.parent / "config.d"
    drop_ins.mkdir()
    drop_in = drop_ins / "a.toml"
    drop_in.write_text(
        f'[image.pinned_images]\nmine = "{NAME}"\n[image.limits]\nrunning_pulls = 9\n'
    )
    assert daemon.cli("config", "reload").stdout == (
        "image.pinned_images: changed\n"
        "image.limits.running_pulls: changes with a restart of the daemon\n"
    )
    drop_in.write_text("[image]\npinned = 1\n")
    failed: subprocess.CompletedProcess[str] = daemon.cli("config", "reload", check=False)
    assert failed.returncode == 2
    assert f"{drop_in}: image.pinned: unknown key" in failed.stderr


def test_caps_and_the_nodes_policy_change_while_it_runs(daemon: Daemon) -> None:
    """Also where nothing else of the file has changed."""
    text = daemon.config.read_text()
    daemon.config.write_text(f'{text}[image.gc]\nmax_age = "336h"\n')
    assert daemon.cli("config", "reload").stdout == "image.gc: changed\n"
    removals = json.loads(daemon.cli("gc", "--images", "--dry-run", "-o", "json").stdout)
    assert removals["enabled"]
    daemon.config.write_text(f'{text}[image.bandwidth]\nbytes_per_second = "1MiB"\n')
    assert daemon.cli("config", "reload").stdout == "image.bandwidth: changed\nimage.gc: changed\n"


def test_limits_that_parts_are_made_of_stay_until_a_restart() -> None:
    limits = Limits()
    before = {name: getattr(limits, name) for name in BUILT_IN}
    others = {name: getattr(limits, name) + 1 for name in Limits.__struct_fields__}
    limits.take_over(Limits(**others))
    for name in Limits.__struct_fields__:
        assert getattr(limits, name) == (others | before)[name]


def test_limits_hold_for_what_begins_after_a_reload(daemon: Daemon, tmp_path: Path) -> None:
    text = daemon.config.read_text()
    layers = [layer({name: file(name)}) for name in ("a", "b")]
    archive = str(write_layout(tmp_path / "layout", NAME, image(*layers)))
    daemon.config.write_text(f"{text}[image.limits]\nlayers = 1\nreference_bytes = 20\n")
    said = daemon.cli("config", "reload").stdout
    assert said == "image.limits.reference_bytes: changed\nimage.limits.layers: changed\n"
    refused = daemon.cli("import", "--name", "a:1", archive, check=False)
    assert "limit 1" in refused.stderr
    assert "limit 20" in daemon.cli("inspect", NAME, check=False).stderr

    daemon.config.write_text(f"{text}[image.limits]\nlayers = 2\nrunning_pulls = 1\n")
    assert daemon.cli("config", "reload").stdout == (
        "image.limits.reference_bytes: changed\nimage.limits.layers: changed\n"
        "image.limits.running_pulls: changes with a restart of the daemon\n"
    )
    daemon.cli("import", archive)


def test_a_key_that_cannot_be_read_changes_nothing(daemon: Daemon) -> None:
    text = daemon.config.read_text()
    policy = '[[image.verification.policy]]\nrequire = "signed"\nkeys = ["/none/team.pub"]\n'
    pins = f'[image.pinned_images]\nmine = "{NAME}"\n'
    daemon.config.write_text(text + pins + policy)
    failed = daemon.cli("config", "reload", check=False)
    assert "image.verification.policy: key /none/team.pub cannot be read" in failed.stderr
    daemon.config.write_text(text + pins)
    assert daemon.cli("config", "reload").stdout == "image.pinned_images: changed\n"


def test_the_configuration_is_shown_with_its_origins(daemon: Daemon) -> None:
    with daemon.config.open("a") as file:
        file.write('[image.registry.configs."r.example".auth]\npassword = "hunter22"\n')
        file.write('[tracing]\nendpoint = "http://ann:hunter22@localhost/v1/traces"\n')
    shown = daemon.cli("config", "show", str(daemon.config)).stdout
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert lines["debug.level"] == ['"debug"', str(daemon.config)]
    assert lines["image.disk_reserve"] == ['"128MiB"', "default"]
    assert lines['image.registry.configs."r.example".auth.password'][0] == '"[censored]"'
    assert lines["tracing.endpoint"][0] == '"http://[censored]@localhost/v1/traces"'
    assert "hunter22" not in shown
