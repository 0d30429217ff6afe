"""Debian's podman, with its storage in one directory and an additional image store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.containerd import find_runc
from tests.support.require import require_real


@dataclass
class Podman:
    directory: Path
    store: Path
    """The additional image store."""

    def __post_init__(self) -> None:
        require_real(os.geteuid() == 0, "only root reads a store of root's")
        require_real(shutil.which("podman") is not None, "podman is not installed")
        self._runc = find_runc()
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "storage.conf").write_text(f"""\
[storage]
driver = "overlay"
graphroot = "{self.graph_root}"
runroot = "{self.directory / "run"}"
[storage.options]
additionalimagestores = ["{self.store}"]
""")
        # podman's own are above what a machine without CAP_SYS_RESOURCE allows.
        (self.directory / "containers.conf").write_text("""\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
""")

    @property
    def graph_root(self) -> Path:
        return self.directory / "graph"

    def close(self) -> None:
        """Undo the mount that podman leaves over its layers."""
        subprocess.run(["umount", self.graph_root / "overlay"], capture_output=True, check=False)

    def __call__(self, *arguments: str) -> str:
        run = self.run(*arguments)
        assert run.returncode == 0, f"podman {' '.join(arguments)}: {run.stdout}{run.stderr}"
        return run.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["podman", "--runtime", str(self._runc), "--cgroup-manager", "cgroupfs"]
        return self._run([*command, *arguments])

    def images(self) -> list[dict[str, Any]]:
        return list(json.loads(self("images", "--format", "json")))

    def skopeo(self, reference: str) -> dict[str, Any]:
        """What `skopeo inspect` says of an image in the store."""
        run = self._run(["skopeo", "inspect", f"containers-storage:{reference}"])
        assert run.returncode == 0, run.stderr
        return dict(json.loads(run.stdout))

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={
                **os.environ,
                "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
                "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
