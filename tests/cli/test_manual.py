"""The man pages that packages have: one for each command, which groff takes without a word."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import typer

from cri_imaged.cli.main import app
from cri_imaged.cli.manual import pages
from tests.cli.test_help import COMMANDS
from tests.support.require import require_real


def test_every_command_has_a_page_with_its_help() -> None:
    found = dict(pages(typer.main.get_command(app)))
    assert set(found) == {"-".join(("cri-imaged", *path)) for path in COMMANDS}
    pull = found["cri-imaged-pull"]
    assert "cri\\-imaged\\-pull \\- Pull images and print their IDs\n" in pull
    assert ".B \\-\\-platform OS/ARCH[/VARIANT]\n" in pull
    assert "\ncri\\-imaged pull busybox alpine:3\n" in pull
    assert ".SH EXIT CODES\n.nf\n0 ok" in found["cri-imaged"]
    assert ".B cri\\-imaged\\-config\\-show(1)\n" in found["cri-imaged-config"]


def test_groff_has_nothing_to_say(tmp_path: Path) -> None:
    require_real(shutil.which("groff") is not None, "groff is not installed")
    subprocess.run([sys.executable, "-m", "cri_imaged.cli.manual", tmp_path], check=True)
    written = sorted(tmp_path.iterdir())
    assert len(written) == len(COMMANDS)
    ran = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", *written],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == ("", "")
