"""Logins in a Docker `config.json` that only its owner reads."""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.files import replacing
from cri_imaged.oci.reference import DOCKER_HUB
from cri_imaged.registry.auth.scope import HUB_KEY, LoginScope

Document: TypeAlias = dict[str, Any]


def add(path: Path, registry: str, user: str, password: str) -> None:
    """Keep a login. Raises `Failure` where the file cannot be used."""

    def change(document: Document) -> None:
        if helper := helper_of(document, registry):
            raise Failure(
                ExitCode.FAILED,
                f"{path}: logins to {registry} are kept by docker-credential-{helper}",
                f"give it to that helper: `docker login {registry}`",
            )
        forget(document, registry)
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        key = HUB_KEY if registry == DOCKER_HUB else registry
        document["auths"] = {**(document.get("auths") or {}), key: {"auth": pair}}

    _change(path, change)


def remove(path: Path, registry: str) -> bool:
    """Drop the login; False where there is none. Raises `Failure` where the file cannot be used."""
    if not path.exists():
        return False
    found = False

    def change(document: Document) -> None:
        nonlocal found
        found = forget(document, registry)

    _change(path, change)
    return found


def helper_of(document: Document, registry: str) -> str:
    """The credential helper that keeps a registry's logins; "" where the file does."""
    helpers: dict[str, str] = document.get("credHelpers") or {}
    named = (helper for key, helper in helpers.items() if _is_for(key, registry))
    return next(named, None) or document.get("credsStore") or ""


def forget(document: Document, registry: str) -> bool:
    """Drop a registry's logins, however they are called; False where there are none."""
    auths: Document = document.get("auths") or {}
    gone = [key for key in auths if _is_for(key, registry)]
    for key in gone:
        del auths[key]
    return bool(gone)


def _is_for(key: str, registry: str) -> bool:
    return LoginScope.of(key) == LoginScope.of(registry)


def _change(path: Path, change: Callable[[Document], None]) -> None:
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            document = json.loads(path.read_text() or "{}") or {}
            if not isinstance(document, dict):
                raise ValueError("an object is expected")
            change(document)
            with replacing(path) as file:
                file.write((json.dumps(document, indent=2) + "\n").encode())
    except PermissionError:
        raise Failure(
            ExitCode.DENIED, f"this user may not change {path}", "run it as the daemon's user"
        ) from None
    except OSError as error:
        raise Failure(ExitCode.FAILED, f"{path}: {error.strerror or error}") from None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Failure(ExitCode.USAGE, f"{path}: no Docker config.json: {error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others who log in off the file, which is made where there is none. Whoever had the lock
    before has put another file in place, so that is to be locked then."""
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                current = False
            if current:
                yield
                return
