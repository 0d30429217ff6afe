"""A layer as one file beside a layer as a directory: what each takes on the disk, and to be found
through, read and removed.

    python benchmarks/erofs.py [--image NAME] [--rounds N] [--scale F]

A local docker-registry serves a generated image; one daemon with each snapshotter pulls it onto an
ext4 of its own in a loop device on tmpfs. A view is mounted, walked by find(1), and read by
tar(1). Then the image is removed, and what is thrown away, emptied. CPU seconds are those of the
programs; of a removal, the daemon's; system time of the kernel's own threads is not in them.
Medians. Run as root.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pulling.images import MIB, NAMES, images
from pulling.processes import Family
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.loopfs import LoopFileSystem
from tests.support.oracle import mounted
from tests.support.process import wait_until

_COMMANDS = {
    "find": ["find", ".", "-size", "+1G"],
    "read": ["tar", "-cf", "-", "."],
}


def used(folder: Path) -> tuple[int, int]:
    """Bytes and inodes of a file system."""
    os.sync()
    info = os.statvfs(folder)
    return (info.f_blocks - info.f_bfree) * info.f_frsize, info.f_files - info.f_ffree


def cost(command: list[str], tree: Path) -> tuple[float, float]:
    """(seconds, CPU seconds)"""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, cwd=tree, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while process.stdout.read(MIB):
            pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        time.perf_counter() - begun,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


@contextmanager
def running(folder: Path, snapshotter: str) -> Iterator[Daemon]:
    """A daemon with its store on a disk of its own."""
    folder.mkdir()
    with (
        LoopFileSystem(folder / "disk.img", folder / "disk", 6000),
        Daemon(folder / "disk" / "d", snapshotter, level="info") as daemon,
    ):
        yield daemon


def measured(daemon: Daemon, name: str) -> dict[str, float]:
    """All figures of one round, which ends with an empty store."""
    disk = daemon.directory.parent
    bytes_before, inodes_before = used(disk)
    daemon.pull(name, timeout=600)
    bytes_after, inodes_after = used(disk)
    found: dict[str, float] = {
        "MiB": (bytes_after - bytes_before) / MIB,
        "inodes": inodes_after - inodes_before,
    }
    with mounted(daemon, name) as tree:
        for what, command in _COMMANDS.items():
            cost(command, tree)
            found[f"{what} s"], found[f"{what} CPU s"] = cost(command, tree)
    family = Family(daemon.process.pid)
    cpu, begun = family.cpu_seconds(), time.perf_counter()
    daemon.remove(name)
    daemon.collect_garbage()
    trash = daemon.root / "trash"
    wait_until(lambda: not any(trash.iterdir()), "the trash is empty", daemon.process)
    found["removal s"] = time.perf_counter() - begun
    found["removal CPU s"] = family.cpu_seconds() - cpu
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--image", default="app", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    try:
        with (
            DockerRegistry(folder / "registry") as registry,
            running(folder / "overlay", "overlay") as overlay,
            running(folder / "erofs", "erofs") as erofs,
        ):
            ((_, image),) = images([chosen.image], chosen.scale)
            name = registry.push(image, "layers:bench")
            daemons = {"overlay": overlay, "erofs": erofs}
            rounds: dict[str, list[dict[str, float]]] = {who: [] for who in daemons}
            for _ in range(chosen.rounds):
                for who, daemon in daemons.items():
                    rounds[who].append(measured(daemon, name))
                daemons = dict(reversed(daemons.items()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| | overlay | erofs |\n|---|---|---|")
    for what in rounds["erofs"][0]:
        medians = (statistics.median(one[what] for one in rounds[who]) for who in rounds)
        print(f"| {what} | " + " | ".join(f"{median:.3f}" for median in medians) + " |")


if __name__ == "__main__":
    main()
