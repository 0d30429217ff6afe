"""Tests that leak a secret, each in its own way: `tests/test_leaks.py` has them run, and fail."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from cri_imaged.errors import Attempt, Category, RegistryError
from tests.support.daemon import Daemon
from tests.support.leaks import MARK
from tests.support.process import Process, wait_until

log = structlog.get_logger()


def test_nothing() -> None:
    log.debug("sent", reference="busybox")


def test_log_of_a_library() -> None:
    logging.getLogger("library").debug("sent %s", MARK)


def test_log() -> None:
    log.debug("sent", headers={"Authorization": f"Bearer {MARK}"})


def test_log_of_an_exception() -> None:
    try:
        raise ValueError(f"sent {MARK}")
    except ValueError:
        log.debug("failed", exc_info=True)


def test_standard_output() -> None:
    print(MARK)


def test_standard_error_of_a_child() -> None:
    subprocess.run([sys.executable, "-c", f"import sys; sys.stderr.write('{MARK}')"], check=True)


def test_error() -> None:
    with pytest.raises(RegistryError):
        raise RegistryError(Category.UNAUTHENTICATED, f"nobody knows {MARK}", ())


def test_attempt() -> None:
    attempt = Attempt("h", f"https://h/?signature={MARK}", "refused", 1.0)
    assert RegistryError(Category.UNAUTHENTICATED, "h", (attempt,))


def test_log_of_a_process(tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", f"print('{MARK}')"], tmp_path / "log")
    process.start()
    wait_until(process.log, "it leaks", process)
    process.stop()


def test_command_line(tmp_path: Path) -> None:
    Daemon(tmp_path).cli("config", "check", f"/{MARK}", check=False)


@pytest.fixture
def leaking() -> Iterator[None]:
    yield
    log.debug(MARK)


def test_fixture(leaking: None) -> None:
    pass
