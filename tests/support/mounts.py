"""Mounts that daemons leave behind, or that tests share with them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cri_imaged import mounting


def let_go(directory: Path) -> None:
    """Unmount what is mounted on or below `directory`, the last one first."""
    for info in reversed(mounting.mounts()):
        if Path(info.mount_point).is_relative_to(directory):
            mounting.unmount(Path(info.mount_point), lazy=True)


def share(directory: Path) -> None:
    """Let what is mounted below `directory` be seen in mount namespaces that are made later, and
    what they mount there be seen here."""
    directory.mkdir(exist_ok=True)
    if str(directory) not in {info.mount_point for info in mounting.mounts()}:
        subprocess.run(["mount", "--bind", directory, directory], check=True)
        subprocess.run(["mount", "--make-shared", directory], check=True)
