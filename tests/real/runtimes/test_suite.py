"""containerd's own test suite for snapshotters, against our socket."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.support.containerd import CACHE
from tests.support.daemon import Daemon
from tests.support.require import require_real

pytestmark = pytest.mark.real

SUITE = CACHE / "bin" / "snapshots-suite"
CASES = 21


def test_every_case_of_containerds_suite_passes(scratch: Scratch) -> None:
    require_real(os.geteuid() == 0, "only root can mount")
    require_real(SUITE.exists(), "the suite is not built (`make snapshots-suite`)")
    directory = scratch("suite")
    socket = directory / "snapshots.sock"
    options = f"""
[image.pinned_images]
[runtime]
snapshots_address = "{socket}"
[runtime.containerd]
address = "{directory / "none.sock"}"
"""
    with Daemon(directory / "daemon", image_options=options):
        run = subprocess.run(
            [SUITE, "-test.v", "-test.parallel=1"],
            env={**os.environ, "SNAPSHOTS_ADDRESS": str(socket), "TMPDIR": str(directory)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    ended = re.findall(r"--- (\w+): TestSuite/(\w+)", run.stdout)
    assert [case for result, case in ended if result != "PASS"] == [], run.stdout[-6000:]
    assert len(ended) == CASES
    assert run.returncode == 0
    assert not _mounts_below(directory)


def _mounts_below(directory: Path) -> list[str]:
    return [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line
    ]
