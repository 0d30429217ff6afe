"""Debian's docker-registry on a free loopback port, and skopeo to fill it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.images import Image, write_layout
from tests.support.leaks import MARK, planted
from tests.support.process import Process, wait_until
from tests.support.require import require_real

_LISTENING = re.compile(r"listening on (?P<host>[^\s:]+):(?P<port>\d+)")


@dataclass(frozen=True)
class Login:
    """A user that htpasswd knows."""

    username: str = "alice"
    password: str = f"{MARK} horse: battery"

    def __post_init__(self) -> None:
        planted([self.password])


@dataclass(frozen=True)
class Certificate:
    """PEM files of a server."""

    chain: Path
    key: Path


@dataclass
class DockerRegistry:
    """One running registry. Use as a context manager."""

    directory: Path
    login: Login | None = None
    certificate: Certificate | None = None
    schema1: bool = False
    """Whether it takes Docker schema 1 manifests."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of every answer, besides its own."""
    port: int = field(init=False)
    _process: Process = field(init=False)

    def __enter__(self) -> Self:
        require_real(
            shutil.which("docker-registry") is not None, "docker-registry is not installed"
        )
        require_real(shutil.which("skopeo") is not None, "skopeo is not installed")
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "config.yml"
        # JSON is YAML, and there is a writer for it in the standard library.
        configuration.write_text(json.dumps(self._configuration()))
        self._process = Process(
            ["docker-registry", "serve", str(configuration)], self.directory / "registry.log"
        )
        self._process.start()
        self.port = int(wait_until(self._listening, "docker-registry listens", self._process))
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stop()

    @property
    def host(self) -> str:
        """Host and port, as references name it."""
        return f"localhost:{self.port}"

    @property
    def log(self) -> str:
        return self._process.log()

    def push(
        self, image: Image, name: str, *others: Image, docker: bool = False, form: str = ""
    ) -> str:
        """Push `image` (with `others`, an index of all) as `name`; returns the full reference.

        skopeo converts to its `--format` `form` on the way, and compresses what is not compressed;
        with `docker`, to Docker schema 2. Without either all stays as it is.
        """
        layout = self.directory / "layouts" / re.sub(r"\W", "_", name)
        write_layout(layout, "pushed", image, *others)
        form = form or ("v2s2" if docker else "")
        return self.push_layout(layout, "pushed", name, form=form)

    def push_layout(self, layout: Path, tag: str, name: str, *, form: str = "") -> str:
        reference = f"{self.host}/{name}"
        login = [f"--dest-creds={self.login.username}:{self.login.password}"] if self.login else []
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", *login]
        command += ["--dest-tls-verify=false", f"--format={form}" if form else "--preserve-digests"]
        run = subprocess.run(
            [*command, f"oci:{layout}:{tag}", f"docker://{reference}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"skopeo could not push {reference}: {run.stderr}"
        return reference

    def digest(self, reference: str) -> str:
        """The digest that the registry has for `reference` (of the index, where it is one)."""
        name, _, tag = reference.removeprefix(self.host + "/").partition(":")
        link = self._repository(name) / "_manifests" / "tags" / tag / "current" / "link"
        return link.read_text().strip()

    def manifest(self, reference: str) -> bytes:
        """The manifest (or index) as the registry stores it."""
        return self.blob_path(self.digest(reference)).read_bytes()

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob: to be damaged behind its back, or measured."""
        algorithm, _, value = digest.partition(":")
        blobs = self.directory / "data" / "docker" / "registry" / "v2" / "blobs"
        return blobs / algorithm / value[:2] / value / "data"

    def _repository(self, name: str) -> Path:
        return self.directory / "data" / "docker" / "registry" / "v2" / "repositories" / name

    def _configuration(self) -> dict[str, object]:
        http: dict[str, object] = {"addr": "127.0.0.1:0", "secret": "of-no-value"}
        if self.headers:
            http["headers"] = {name: [value] for name, value in self.headers.items()}
        if self.certificate:
            http["tls"] = {
                "certificate": str(self.certificate.chain),
                "key": str(self.certificate.key),
            }
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if self.schema1:
            configuration["compatibility"] = {"schema1": {"enabled": True}}
        if self.login:
            configuration["auth"] = {
                "htpasswd": {"realm": "tests", "path": str(self._htpasswd(self.login))}
            }
        return configuration

    def _htpasswd(self, login: Login) -> Path:
        require_real(
            shutil.which("htpasswd") is not None, "htpasswd (apache2-utils) is not installed"
        )
        path = self.directory / "htpasswd"
        subprocess.run(
            ["htpasswd", "-i", "-B", "-c", str(path), login.username],
            input=login.password,
            text=True,
            check=True,
            capture_output=True,
        )
        return path

    def _listening(self) -> str | None:
        found = _LISTENING.search(self._process.log())
        return found["port"] if found else None
