"""A credential provider as the kubelet runs them, and the kubelet's configuration of some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

API = "credentialprovider.kubelet.k8s.io/v1"


@dataclass
class Provider:
    """A program that answers all alike, and writes down what it is asked."""

    folder: Path
    name: str = "plugin"
    username: str = "node"
    password: str = ""

    @property
    def questions(self) -> list[dict[str, Any]]:
        """All requests, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def asked(self) -> list[str]:
        """Each question's image, in order."""
        return [question["image"] for question in self.questions]

    def answers(self, script: str) -> None:
        """Have it run `script` once it has read the question."""
        self.folder.mkdir(exist_ok=True)
        program = self.folder / self.name
        start = f'#!/bin/sh\nread -r question || exit 9\necho "$question" >>{self._log}\n'
        program.write_text(f"{start}{script}\n")
        program.chmod(0o755)

    def gives(self, *keys: str, kind: str = "Image", duration: str | None = None) -> None:
        """Have it answer with its login for `keys`."""
        login = {"username": self.username, "password": self.password}
        answer = {
            "kind": "CredentialProviderResponse",
            "apiVersion": API,
            "cacheKeyType": kind,
            **({"cacheDuration": duration} if duration else {}),
            "auth": dict.fromkeys(keys, login),
        }
        self.answers(f"cat <<'END'\n{json.dumps(answer)}\nEND")

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.asked"


def entry(name: str, images: Sequence[str], **more: object) -> dict[str, object]:
    """One provider of a configuration."""
    fixed = {"name": name, "apiVersion": API, "matchImages": list(images)}
    return {**fixed, "defaultCacheDuration": "10m", **more}


def write_config(path: Path, *providers: dict[str, object]) -> Path:
    """Write a CredentialProviderConfig."""
    document = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
    path.write_text(yaml.safe_dump({**document, "providers": list(providers)}))
    return path
