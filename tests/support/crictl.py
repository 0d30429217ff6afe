"""The real crictl, against one socket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.leaks import emitted
from tests.support.require import require_real

BUILT = Path(__file__).parents[2] / ".cache" / "bin" / "crictl"


def find_crictl() -> Path:
    """The crictl that `make crictl` built, or one in PATH."""
    found = str(BUILT) if BUILT.exists() else shutil.which("crictl")
    require_real(found is not None, "crictl is not installed (`make crictl` builds it with go)")
    assert found is not None
    return Path(found)


@dataclass(frozen=True)
class Crictl:
    """crictl with both endpoints at `endpoint`."""

    program: Path
    endpoint: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run and return the result, whatever it is. `--timeout` is left at crictl's default."""
        run = subprocess.run(
            [
                str(self.program),
                f"--config={os.devnull}",
                f"--runtime-endpoint={self.endpoint}",
                f"--image-endpoint={self.endpoint}",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        emitted("what crictl prints", run.stdout + run.stderr)
        return run

    def __call__(self, *arguments: str) -> str:
        """Run, demand success, return standard output."""
        run = self.run(*arguments)
        assert run.returncode == 0, f"crictl {' '.join(arguments)}: {run.stdout}{run.stderr}"
        return run.stdout

    def json(self, command: str, *arguments: str) -> Any:
        return json.loads(self(command, "--output=json", *arguments))

    def pull(self, reference: str, *options: str) -> str:
        """Pull; returns what crictl says the image's reference is."""
        answer = self("pull", *options, reference)
        head, separator, image_ref = answer.strip().partition("Image is up to date for ")
        assert separator, answer
        assert not head, answer
        return image_ref

    def tags(self, *arguments: str) -> set[str]:
        """All repo tags that `crictl images` shows."""
        images = self.json("images", *arguments)["images"]
        return {tag for image in images for tag in image["repoTags"]}
