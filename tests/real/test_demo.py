"""`make demo` shows what it promises, as root and as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.unprivileged import CHECKOUT, as_nobody

pytestmark = pytest.mark.real

DEMO = [sys.executable, str(CHECKOUT / "deploy" / "demo" / "demo.py")]


@pytest.mark.parametrize("user", ["oneself", "nobody"])
def test_the_demo(user: str) -> None:
    command = DEMO if user == "oneself" else as_nobody(DEMO)
    run = subprocess.run(
        command,
        # Without the network's proxies and with a home that nobody may use.
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "hello from a program of the image" in run.stdout
    assert run.stdout.rstrip().endswith("Everything worked.")
