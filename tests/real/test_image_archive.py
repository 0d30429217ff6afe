"""The container image of this project, which our own daemon imports and runc runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cri_imaged import __version__
from tests.real.conftest import Scratch
from tests.support.daemon import Daemon

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("IMAGE" not in os.environ, reason="built and run by `make image-check`"),
]


def test_the_image_has_the_program(daemon: Daemon, scratch: Scratch) -> None:
    archive = Path(os.environ["IMAGE"]).resolve()
    daemon.cli("import", "--name", "cri-imaged:built", str(archive))
    present = daemon.image("docker.io/library/cri-imaged:built")
    assert present is not None
    bundle = scratch("bundle") / "of"
    daemon.cli("bundle", "cri-imaged:built", str(bundle), "/usr/bin/cri-imaged", "--", "--version")
    try:
        done = subprocess.run(
            ["runc", "run", "--bundle", bundle, f"cri-imaged-image-{os.getpid()}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        daemon.cli("umount", str(bundle / "rootfs"))
    assert (done.stdout, done.stderr) == (f"cri-imaged {__version__}\n", "")
