"""Secrets are found in every form and wherever they are emitted."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from tests.support import leaking
from tests.support.leaks import MARK, leaks, planted


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "user:"])
@pytest.mark.parametrize("after", ["", "a", "ab", "abc", "-password\0\0", "\xff\xfe"])
def test_every_form_of_a_secret_is_found(before: str, after: str) -> None:
    secret = f"{before}{MARK}{after}"
    for form in (
        secret,
        repr(secret),
        urllib.parse.quote(secret),
        base64.b64encode(secret.encode()).decode(),
        base64.urlsafe_b64encode(secret.encode()).decode(),
    ):
        assert leaks(f"sent {form}, and was refused")


def test_what_is_no_secret_is_not_found() -> None:
    assert leaks("sent [censored], and was refused") == []


def test_a_secret_that_would_not_be_found_is_not_planted() -> None:
    planted([f"{MARK}-a", base64.b64encode(f"user:{MARK}".encode()).decode()])
    with pytest.raises(AssertionError, match="without the mark"):
        planted([f"{MARK}-a", "unmarked"])


def test_whatever_leaks_fails(tmp_path: Path) -> None:
    """In a run of their own, as all tests are run, in a folder that no other run shares."""
    file = Path(leaking.__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    command.append(f"--basetemp={tmp_path / 'run'}")
    environ = {**os.environ, "COLUMNS": "1000"}  # no reason is cut
    run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    leaky = re.findall(r"^(?:FAILED|ERROR) \S+::(\w+) - a secret in ", run.stdout, re.MULTILINE)
    assert sorted([*leaky, "test_nothing"]) == sorted(
        name for name in dir(leaking) if name.startswith("test_")
    ), run.stdout + run.stderr
