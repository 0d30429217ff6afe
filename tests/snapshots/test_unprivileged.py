"""The same tests of native once more, as an ordinary user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.snapshots.workbench import memory
from tests.support.unprivileged import CHECKOUT, as_nobody

FILES = [
    f"tests/snapshots/test_{name}.py"
    for name in ("suite", "differential", "hostile", "late", "limits", "survival", "trash")
]


def test_native_passes_as_nobody() -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as scratch:
        os.chmod(scratch, 0o777)
        command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--basetemp={scratch}/pytest", "-k", "native or trash", *FILES]
        environment = {
            **os.environ,
            "TMPDIR": scratch,
            "HOME": scratch,
            "HYPOTHESIS_STORAGE_DIRECTORY": f"{scratch}/hypothesis",
            "COVERAGE_FILE": f"{scratch}/coverage",
        }
        # What only root can do is skipped here; it is required of the run as root.
        environment.pop("REQUIRE_REAL", None)
        done = subprocess.run(
            as_nobody(command, Path(scratch)),
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 100
