"""Pull whole images: this daemon beside containerd and a bare pipeline, in one run.

    python benchmarks/pull.py [--images NAME,...] [--rounds N] [--scale F] [--limit MB]
                              [--json FILE] [--before PROGRAM] [--disk]

A local docker-registry serves generated images of the shapes of real ones. Each contestant pulls
into an empty store on tmpfs, whose memory was warmed before, by its own default settings, and
forgets what it pulled. They alternate, in another order each round; medians over the rounds. Of
the first round, which is not counted, memory is taken. CPU seconds are those of all processes of a
contestant, for half a second after the pull too. Run as root, on a machine that does nothing else:
about ten minutes.

The bare pipeline (benchmarks/pulling/bare.py) is the floor of a pull in Python. Needs
docker-registry and skopeo (Debian's packages) and containerd: `make containerd` or Debian's.
--before: the cri-imaged of another checkout takes part, too. --limit: nginx, which that needs,
holds each connection to so many MB/s. --disk: all stores on one ext4 in a loop device on tmpfs,
from which the kernel mounts images; then our erofs snapshotter takes part, and a bare pipeline that
writes one file a layer. (containerd's own erofs snapshotter needs a newer mkfs.erofs than Debian's
1.5.)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pulling import contestants
from pulling.contestants import Contestant
from pulling.images import MIB, NAMES, images
from pulling.machine import SETTLED_SECONDS, machine, settle
from pulling.shaping import shaped
from tests.support.docker_registry import DockerRegistry
from tests.support.loopfs import LoopFileSystem

_TINY_PULLS = 20
_DISK_MEGABYTES = 12_000


@dataclass
class Figures:
    """Of one contestant and one image, a value for each counted round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def summary(self) -> dict[str, float]:
        return {
            "seconds": self.median,
            "fastest": min(self.seconds),
            "slowest": max(self.seconds),
            "cpu_seconds": statistics.median(self.cpu_seconds),
            "peak_mib": self.peak_bytes / MIB,
        }


def measured(contestant: Contestant, image: str, name: str) -> tuple[float, float]:
    """(seconds, CPU seconds) of a pull; of a tiny image, the means of several."""
    pulls = _TINY_PULLS if image == "tiny" else 1
    seconds = 0.0
    cpu = contestant.family.cpu_seconds()
    for number in range(pulls):
        if number:
            contestant.forget(name)
        begun = time.perf_counter()
        contestant.pull(name)
        seconds += time.perf_counter() - begun
    time.sleep(SETTLED_SECONDS)
    cpu = contestant.family.cpu_seconds() - cpu
    contestant.forget(name)
    return seconds / pulls, cpu / pulls


def compete(
    taking_part: dict[str, Contestant], image: str, name: str, rounds: int, folder: Path
) -> dict[str, Figures]:
    """All rounds of one image."""
    results = {who: Figures() for who in taking_part}
    order = list(taking_part)
    for number in range(rounds + 1):
        for who in order:
            contestant, figures = taking_part[who], results[who]
            settle(folder)
            if number:
                seconds, cpu = measured(contestant, image, name)
                figures.seconds.append(seconds)
                figures.cpu_seconds.append(cpu)
                told = f"{seconds:7.3f} s {cpu:7.3f} CPU s"
            else:
                with contestant.family.peak_of_memory() as seen:
                    contestant.pull(name)
                contestant.forget(name)
                figures.peak_bytes = max(seen)
                told = f"{figures.peak_bytes / MIB:7.0f} MiB at most (not counted)"
            print(f"  {image:9} round {number}  {who:11} {told}", file=sys.stderr, flush=True)
        order.append(order.pop(0))
    return results


def table(results: dict[str, dict[str, Figures]]) -> str:
    """In Markdown: what each took, and how many times that is of what this daemon took."""
    rows = [
        "| image | contestant | seconds (fastest to slowest) | CPU s | peak MiB | ÷ ours |",
        "|---|---|---|---|---|---|",
    ]
    for image, by_contestant in results.items():
        ours = by_contestant["cri-imaged"].median
        for who, figures in by_contestant.items():
            found = figures.summary()
            spread = f"{found['seconds']:.3f} ({found['fastest']:.3f} to {found['slowest']:.3f})"
            rows.append(
                f"| {image} | {who} | {spread} | {found['cpu_seconds']:.2f} | "
                f"{found['peak_mib']:.0f} | {found['seconds'] / ours:.2f} |"
            )
    return "\n".join(rows)


def enter(
    stack: ExitStack, folder: Path, before: Path | None, *, disk: bool
) -> tuple[dict[str, Contestant], dict[str, float]]:
    """All who can take part here, and what memory (MiB) each takes before its first pull."""
    starting: dict[str, AbstractContextManager[Contestant]] = {
        "cri-imaged": contestants.cri_imaged(folder / "cri-imaged"),
        "containerd": contestants.containerd(folder / "containerd"),
        "bare": contestants.bare(folder / "bare"),
    }
    if disk:
        starting["erofs"] = contestants.cri_imaged(folder / "erofs", snapshotter="erofs")
        starting["one-file"] = contestants.bare(folder / "one-file", "--one-file")
    if before:
        starting["before"] = contestants.cri_imaged(folder / "before", before)
    taking_part = {}
    for who, start in starting.items():
        try:
            taking_part[who] = stack.enter_context(start)
        except FileNotFoundError as error:
            print(f"without {who}: {error}", file=sys.stderr)
    time.sleep(2)
    return taking_part, {
        who: contestant.family.memory() / MIB for who, contestant in taking_part.items()
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="Images: " + "; ".join(f"{name}: {what}" for name, what in NAMES.items()),
    )
    parser.add_argument("--images", default=",".join(NAMES), metavar="NAME,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the images' sizes")
    parser.add_argument("--limit", type=int, metavar="MB", help="per second and connection")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--before", type=Path, metavar="PROGRAM")
    parser.add_argument("--disk", action="store_true", help="stores on ext4, not on tmpfs")
    chosen = parser.parse_args()
    chosen.images = chosen.images.split(",")
    if unknown := set(chosen.images).difference(NAMES):
        parser.error(f"no such image: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if os.geteuid():
        parser.error("overlay snapshots, and so the comparison, need root")
    return chosen


def main() -> None:
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    described = machine()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    try:
        with ExitStack() as stack:
            registry = stack.enter_context(DockerRegistry(folder / "registry"))
            names = {}
            for image, made in images(chosen.images, chosen.scale):
                print(f"  making {image}: {NAMES[image]}", file=sys.stderr, flush=True)
                names[image] = registry.push(made, f"{image}:bench")
                shutil.rmtree(folder / "registry" / "layouts")
            limited = shaped(folder / "nginx", registry.port, chosen.limit)
            host = stack.enter_context(limited if chosen.limit else nullcontext(registry.host))
            stores = folder / "stores"
            if chosen.disk:
                stack.enter_context(LoopFileSystem(folder / "disk.img", stores, _DISK_MEGABYTES))
            stores.mkdir(exist_ok=True)
            taking_part, idle = enter(stack, stores, chosen.before, disk=chosen.disk)
            results = {
                image: compete(
                    taking_part,
                    image,
                    name.replace(registry.host, host),
                    chosen.rounds,
                    folder,
                )
                for image, name in names.items()
            }
            versions = {who: contestant.version for who, contestant in taking_part.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("; ".join(f"{key} {value}" for key, value in described.items()))
    print("; ".join(f"{who}: {version}" for who, version in versions.items()))
    print("idle MiB: " + ", ".join(f"{who} {size:.0f}" for who, size in idle.items()) + "\n")
    print(table(results))
    if chosen.json:
        written = {
            "machine": described,
            "versions": versions,
            "limit_mb": chosen.limit,
            "idle_mib": idle,
            "images": {
                image: {who: figures.summary() for who, figures in each.items()}
                for image, each in results.items()
            },
        }
        chosen.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
