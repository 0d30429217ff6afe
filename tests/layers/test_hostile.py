"""No archive makes, changes, reads or links anything outside its directory; in each setting."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.ports import IMAGE
from tests.layers.applying import IMAGES, PLAIN, Outcome, apply_all, make_target
from tests.layers.applying import SETTINGS as DIRECTORIES
from tests.layers.hostile import CASES, EITHER
from tests.support.require import require_real

SETTINGS = (*DIRECTORIES, IMAGES)
Results = dict[tuple[str, str], tuple[Outcome, Path]]
SECRET = b"the victim's own bytes"


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """Every case in every setting: its outcome and its folder."""
    results: Results = {}
    for setting in SETTINGS:
        if setting != "ordinary user" and os.geteuid() != 0:
            continue
        folder = tmp_path_factory.mktemp("hostile")
        jobs = []
        for number, case in enumerate(CASES.values()):
            place = folder / str(number)
            (place / "victim").mkdir(parents=True)
            hello = place / "victim" / "hello"
            hello.write_bytes(SECRET)
            hello.chmod(0o640 if os.geteuid() else 0o646)  # nobody could do harm to it
            make_target(place / "root")
            tar = place / "layer.tar"
            tar.write_bytes(case.build(str(place / "victim")))
            jobs.append((tar, PLAIN, place / "root"))
        for (tar, _, _), name, outcome in zip(
            jobs, CASES, apply_all(setting, jobs, folder), strict=True
        ):
            results[setting, name] = (outcome, tar.parent)
    yield results
    for _, place in results.values():
        subprocess.run(["rm", "-rf", place / "root"], check=True)  # too deep for shutil


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize(("setting", "name"), list(itertools.product(SETTINGS, CASES)))
def test_hostile_archive(applied: Results, setting: str, name: str) -> None:
    require_real((setting, name) in applied, "only root applies layers with all their attributes")
    outcome, place = applied[setting, name]
    victim = place / "victim"
    assert sorted(os.listdir(place)) == ["layer.tar", "root", "victim"]
    assert os.listdir(victim) == ["hello"]
    status = (victim / "hello").lstat()
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == (0o640 if os.geteuid() else 0o646)
    assert status.st_nlink == 1
    assert (victim / "hello").read_bytes() == SECRET
    if setting == IMAGES:
        assert os.listdir(place / "root") == [IMAGE], "and no file beside it"
    search = ["grep", "--recursive", "--fixed-strings", SECRET.decode(), "."]
    assert subprocess.run(search, cwd=place / "root", check=False).returncode == 1
    expected = CASES[name].outcome
    if expected != EITHER:
        assert outcome.error == expected, outcome.message
    if outcome.error:
        assert "entry" in outcome.message
