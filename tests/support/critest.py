"""critest, the validation suite for CRI runtimes, with images of our own in place of its ones."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support.containerd import CACHE
from tests.support.debian import busybox_tree
from tests.support.images import Image, directory, file, image, layer, symlink
from tests.support.require import require_real

PROGRAM = CACHE / "bin" / "critest"
ONLINE = "benchmark|Streaming|Networking|webserver|httpd|nginx"
"""What measures, or needs images that only the Internet has."""


def critest_image() -> Image:
    """A root in which critest's commands are found."""
    listed = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
    applets = {f"bin/{each}": symlink("busybox") for each in listed.stdout.split()}
    folders = {each: directory() for each in ("home", "mnt", "root", "usr", "var")}
    tree = applets | busybox_tree() | folders | {"etc/group": file("root:x:0:\n")}
    return image(layer(tree), Cmd=["/bin/sh"], Env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])


def passed(directory: Path, runtime: Path, images: Path, image_name: str, focus: str) -> set[str]:
    """Run the specs that match `focus` against the sockets `runtime` and `images`, with
    `image_name` for their containers; the names of those that passed."""
    require_real(PROGRAM.exists(), "critest is not built (`make critest`)")
    report, names = directory / "report.json", directory / "images.json"
    names.write_text(
        json.dumps({"defaultTestContainerImage": image_name, "webServerTestImage": image_name})
    )
    run = subprocess.run(
        [
            PROGRAM,
            f"--runtime-endpoint=unix://{runtime}",
            f"--image-endpoint=unix://{images}",
            f"--test-images-file={names}",
            f"--config={os.devnull}",
            f"--ginkgo.focus={focus}",
            f"--ginkgo.skip={ONLINE}",
            f"--ginkgo.json-report={report}",
            "--ginkgo.seed=1",
            "--ginkgo.no-color",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert report.exists(), run.stdout + run.stderr
    (suite,) = json.loads(report.read_text())
    return {
        " / ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]])
        for spec in suite["SpecReports"]
        if spec["LeafNodeType"] == "It" and spec["State"] == "passed"
    }
