"""What packages and images are built from: locked, and the same each time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from cri_imaged import __version__
from tests.support.deploy import CHECKOUT, DEPLOY

LOCK = (DEPLOY / "requirements.lock").read_text()
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    locked = dict(PIN.findall(LOCK))
    for line in project["dependencies"]:
        asked = Requirement(line)
        version = locked[asked.name.replace(".", "-")]
        assert version in asked.specifier, f"{line}: run `make lock`"


def test_each_pin_has_hashes_and_no_address() -> None:
    for pin in re.split(r"\n(?=[a-z])", LOCK):
        assert "--hash=sha256:" in pin, pin.splitlines()[0]
    assert "://" not in LOCK


def test_the_list_of_parts_names_each_pin_and_which_version_they_make(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "deploy", "server"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    make = ["make", "-C", tmp_path, "-o", "setup", f"BIN={Path(sys.executable).parent}", "sbom"]
    subprocess.run(make, check=True, capture_output=True)
    (file,) = (tmp_path / "dist").iterdir()
    parts = json.loads(file.read_text())
    made = parts["metadata"]["component"]
    assert (made["name"], made["version"]) == ("cri-imaged", __version__)
    assert {(part["name"], part["version"]) for part in parts["components"]} == {*PIN.findall(LOCK)}


def test_a_wheel_is_the_same_each_time(tmp_path: Path) -> None:
    built = []
    for number in range(2):
        folder = tmp_path / str(number)
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, CHECKOUT],
            check=True,
            capture_output=True,
        )
        (wheel,) = folder.iterdir()
        built.append((wheel.name, wheel.read_bytes()))
    assert built[0] == built[1]
