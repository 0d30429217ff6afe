"""EROFS images as the kernel and Debian's erofs-utils see them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cri_imaged import mounting
from cri_imaged.snapshots.layer_mounts import mount_image
from tests.support.require import require_real

WHOLE = os.environ.get("EROFS") == "all"
"""`make erofs`: what is long, too, and all by loop devices, as kernels before 6.12 do."""


@contextlib.contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """A directory where the kernel shows what is in `image`."""
    require_real(os.geteuid() == 0, "only root mounts an image")
    with tempfile.TemporaryDirectory(prefix="erofs-") as target:
        mount_image(image, Path(target), loops=WHOLE)
        try:
            yield Path(target)
        finally:
            mounting.unmount(Path(target))


def fsck(image: Path) -> str:
    """What fsck.erofs and dump.erofs have against `image`; nothing where they are content."""
    return _said("fsck.erofs", image) + _said("dump.erofs", "-s", image)


def make(image: Path, tree: Path) -> None:
    """Let mkfs.erofs write the image of a directory."""
    assert _said("mkfs.erofs", image, tree) == ""


def _said(program: str, *arguments: str | Path) -> str:
    require_real(shutil.which(program) is not None, f"no {program} (erofs-utils)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
