"""Credentials in every form, right and wrong: nothing that the daemon emits or keeps holds them."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry, Login
from tests.support.images import Image
from tests.support.leaks import MARK, leaks
from tests.support.registry import encoded
from tests.support.store import walk

pytestmark = pytest.mark.real


def leaking(directory: Path) -> list[Path]:
    """Files below `directory` that hold a secret."""
    found = []
    for path, info in walk(directory):
        with suppress(FileNotFoundError):  # what failed pulls left is removed meanwhile
            if stat.S_ISREG(info.st_mode) and leaks(path.read_text("latin-1")):
                found.append(path)
    return found


def test_no_secret_is_emitted_or_kept(
    daemon: Daemon, private_registry: DockerRegistry, busybox: Image
) -> None:
    reference = private_registry.push(busybox, "secret/image:1")
    login = Login()
    attempts = [
        {"username": "user", "password": MARK},
        {"auth": encoded(f"user:{MARK}")},
        {"auth": f"{MARK} is no base64"},
        {"identity_token": MARK},
        {"registry_token": MARK},
        {"username": "user", "password": MARK, "server_address": f"https://u:{MARK}@elsewhere"},
    ]
    for auth in attempts:
        with pytest.raises(grpc.RpcError):
            daemon.pull(reference, **auth)
    for name in ("registry.invalid/x:1", f"{private_registry.host}/secret/none:1"):
        with pytest.raises(grpc.RpcError):
            daemon.pull(name, username="user", password=MARK)
    pulled = daemon.pull(reference, username=login.username, password=login.password)
    assert pulled == busybox.id
    assert leaking(daemon.directory) == []
    assert len(daemon.log_lines()) > 10
