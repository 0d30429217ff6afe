"""Marked credentials in every form, right and wrong, at debug level: nothing that the daemon emits
or keeps holds them."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import grpc
import pytest

from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry, Login
from tests.support.images import Image

pytestmark = pytest.mark.real

MARK = "s3cr3t-marked-4711"


def forms_of(secret: str) -> set[bytes]:
    """A secret as it is, and as HTTP and CRI carry it."""
    plain = {secret, f"user:{secret}", f"alice:{secret}"}
    return {text.encode() for text in plain} | {base64.b64encode(t.encode()) for t in plain}


def written_under(directory: Path) -> list[tuple[Path, bytes]]:
    return [
        (Path(folder) / name, (Path(folder) / name).read_bytes())
        for folder, _, names in os.walk(directory)
        for name in names
        if (Path(folder) / name).is_file()
    ]


def test_no_secret_is_emitted_or_kept(
    daemon: Daemon, private_registry: DockerRegistry, busybox: Image
) -> None:
    reference = private_registry.push(busybox, "secret/image:1")
    login = Login()
    attempts: list[dict[str, str]] = [
        {"username": "user", "password": MARK},
        {"auth": base64.b64encode(f"user:{MARK}".encode()).decode()},
        {"auth": f"{MARK} is no base64"},
        {"identity_token": MARK},
        {"registry_token": MARK},
        {"username": "user", "password": MARK, "server_address": f"https://u:{MARK}@elsewhere"},
        {"username": login.username, "password": login.password},
    ]
    answers = []
    for auth in attempts:
        try:
            answers.append(daemon.pull(reference, **auth))
        except grpc.RpcError as error:
            answers.append(f"{error.code()} {error.details()}")  # type: ignore[attr-defined]
    assert answers[-1] == busybox.id
    assert len([answer for answer in answers if answer.startswith("sha256:")]) == 1
    for name in ("registry.invalid/x:1", f"{private_registry.host}/secret/none:1"):
        with pytest.raises(grpc.RpcError) as refused:
            daemon.pull(name, username="user", password=MARK)
        answers.append(str(refused.value))
    emitted = [
        (Path("answers"), "\n".join(answers).encode()),
        (Path("metrics"), daemon.metrics().encode()),
        *written_under(daemon.directory),
    ]
    secrets = forms_of(MARK) | forms_of(login.password)
    leaks = [path for path, data in emitted for secret in secrets if secret in data]
    assert leaks == []
    assert len(daemon.log_lines()) > 10
