"""The unit that deploy/ ships, run by a real systemd: started, confined, reloaded, begun anew."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.support.deploy import DEPLOY
from tests.support.docker_registry import DockerRegistry
from tests.support.images import WHITEOUT, Node, file, image, layer
from tests.support.process import wait_until
from tests.support.require import require_real
from tests.support.systemd import Machine

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        "SYSTEMD" not in os.environ,
        reason="run by `make systemd-check`: a CI machine need not let a systemd run in it, so "
        "REQUIRE_REAL has no say",
    ),
]


NODE_IP = "127.66.13.38"
INSTALLER = Path(__file__).parents[1] / "support" / "installer.sh"


@pytest.fixture(scope="module")
def booted(scratch: Scratch) -> Iterator[Machine]:
    require_real(os.geteuid() == 0, "only root can boot a system in namespaces")
    require_real(Path("/lib/systemd/systemd").exists(), "systemd is not installed")
    with Machine(scratch("systemd")) as running:
        yield running


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """With the unit as it is shipped, running under the default configuration."""
    booted.configure("")
    booted.drop_in("")
    booted.systemctl("restart")
    return booted


def test_an_image_is_pulled_as_the_unit_confines_it(
    machine: Machine, registry: DockerRegistry
) -> None:
    """Owners, set-user-ID, devices, whiteouts: all that a confinement could forbid."""
    lower = {
        "bin/su": file("su", mode=0o4755),
        "home/web": file("web", uid=1000, gid=1000),
        "dev/null": Node(type=b"3", mode=0o666, device=(1, 3)),
        "gone": file("gone"),
    }
    upper = layer({".wh.gone": WHITEOUT, "opt/app": file("app")}, "zstd")
    name = registry.push(image(layer(lower), upper), "unit/app:1")
    machine.client("pull", name)
    machine.client("check")
    namespaces = (f'"{kind} namespace"' for kind in ("mount", "uts", "ipc", "network", "pid"))
    machine.until_logged(f'{{"by": [{", ".join(namespaces)}, ')
    machine.client("mount", name, "/mnt")
    try:
        files = ("/mnt/bin/su", "/mnt/home/web", "/mnt/dev/null", "/mnt/opt/app")
        found = machine.run("stat", "--format=%F %a %u", *files).stdout.splitlines()
        assert found == [
            "regular file 4755 0",
            "regular file 644 1000",
            "character special file 666 0",
            "regular file 644 0",
        ]
        assert machine.run("stat", "/mnt/gone", check=False).returncode != 0
    finally:
        machine.client("umount", "/mnt")


def test_it_serves_as_soon_as_it_is_started_and_stops_in_order(machine: Machine) -> None:
    assert machine.show("ActiveState") == "active"
    machine.client("images")
    machine.systemctl("stop")
    assert machine.show("Result") == "success"


def test_a_reload_takes_over_what_is_right_and_refuses_what_is_wrong(machine: Machine) -> None:
    pid = machine.show("MainPID")
    machine.configure('[debug]\nlevel = "debug"\n')
    machine.systemctl("reload")
    machine.until_logged('"changed": ["debug.level"]')
    machine.configure('[debug]\nlevel = "lout"\n')
    assert machine.systemctl("reload", check=False) != 0
    assert machine.show("MainPID") == pid
    machine.client("images")


def test_a_daemon_that_is_killed_is_begun_anew(machine: Machine) -> None:
    before = machine.show("MainPID")
    machine.run("kill", "-KILL", before)
    wait_until(lambda: anew(machine, before), "it is begun anew")
    machine.client("images")


def test_a_daemon_that_hangs_is_begun_anew(machine: Machine) -> None:
    machine.drop_in("[Service]\nWatchdogSec=2\n")
    machine.systemctl("restart")
    before = machine.show("MainPID")
    machine.run("kill", f"-{signal.SIGSTOP}", before)
    wait_until(lambda: anew(machine, before), "it is begun anew")
    machine.until_logged("Watchdog timeout")


def test_a_wrong_configuration_is_told_and_tried_again_until_it_is_right(machine: Machine) -> None:
    machine.configure("roof = 1\n")
    assert machine.systemctl("restart", check=False) != 0
    machine.until_logged("roof")
    machine.configure("")
    wait_until(lambda: machine.show("ActiveState") == "active", "it serves")


def test_another_root_by_the_drop_in(machine: Machine) -> None:
    machine.path("/data/images").mkdir(parents=True)
    machine.configure('root = "/data/images"\n')
    assert machine.systemctl("restart", check=False) != 0
    machine.drop_in((DEPLOY / "systemd" / "other-root.conf").read_text())
    machine.systemctl("restart")
    assert machine.path("/data/images/metadata.db").exists()


def test_the_daemonsets_installer_makes_it_a_service_of_the_node(machine: Machine) -> None:
    def install() -> str:
        return machine.run("sh", str(INSTALLER), str(DEPLOY), sys.prefix, NODE_IP).stdout

    machine.systemctl("stop")
    assert "cri-imaged 1.2.3 runs on the node" in install()
    assert machine.show("ActiveState") == "active"
    assert machine.show("UnitFileState") == "enabled", "it starts after a reboot without the pod"
    assert machine.run("readlink", "/opt/cri-imaged").stdout == "cri-imaged-1.2.3\n"
    machine.client("images")
    with urllib.request.urlopen(f"http://{NODE_IP}:1338/healthz", timeout=30) as probed:
        assert probed.status == 200
    pid = machine.show("MainPID")
    install()
    assert machine.show("MainPID") == pid, "installing again leaves the service alone"


def test_the_packages_scripts_leave_what_the_administrator_has_decided(machine: Machine) -> None:
    machine.systemctl("stop")
    unit = machine.path("/etc/systemd/system/cri-imaged.service")
    packaged = machine.path("/usr/lib/systemd/system/cri-imaged.service")
    packaged.write_text(unit.read_text())
    unit.unlink()
    machine.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)  # would forbid any start

    def configured(*version: str) -> str:
        script = str(DEPLOY / "debian" / "postinst")
        done = machine.run("sh", script, "configure", *version)
        return done.stderr

    configured("")
    assert machine.show("UnitFileState") == "enabled"
    assert machine.show("ActiveState") == "active"
    pid = machine.show("MainPID")
    configured("0.0.9")
    assert machine.show("MainPID") != pid, "an upgrade restarts it"
    machine.configure("roof = 1\n")
    assert "did not start" in configured("0.0.9")
    machine.configure("")
    machine.systemctl("stop")
    machine.systemctl("disable")
    configured("0.0.9")
    assert machine.show("UnitFileState") == "disabled"
    machine.systemctl("mask")
    configured("0.0.9")
    assert machine.show("UnitFileState") == "masked"
    machine.run("sh", str(DEPLOY / "debian" / "prerm"), "remove")
    machine.systemctl("unmask")
    packaged.rename(unit)


def anew(machine: Machine, before: str) -> bool:
    """Whether another process than that one serves."""
    return machine.show("MainPID") not in ("0", before) and machine.show("ActiveState") == "active"
