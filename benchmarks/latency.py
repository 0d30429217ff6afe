"""What is waited for while images are pulled: this daemon beside containerd.

    python benchmarks/latency.py [--only beside,crowd,link] [--rounds N] [--scale F] [--json FILE]

beside: how long an ImageStatus takes, asked again and again, while `app` is pulled; and of this
    daemon the longest stall of its event loop meanwhile: how long the loop took to come to what it
    was asked, without the time that it waited for a core (obs/stalls.py, which looks every 4 ms).
crowd: ten pulls of ten images one after the other, then at once; and how long the first and the
    last of these took.
link: a pull of `app` over 1 Gbit/s in all, beside the time that its layers alone take over that
    link, fetched at once. In a network namespace, by tc: with 20 ms for a round trip where the
    kernel has sch_netem, without where it has sch_tbf alone. What was used is printed.

Medians over the rounds. Registry, stores and images as in benchmarks/pull.py. Run as root, on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pulling import contestants, link, watched
from pulling.contestants import Client, Server
from pulling.images import crowd, images
from pulling.machine import machine, settle
from tests.support.docker_registry import DockerRegistry

EXPERIMENTS = ("beside", "crowd", "link")
_MEGABITS = 1000
_PAUSE = 0.002
"""Seconds between two calls of ImageStatus."""
_READ = 1 << 20

Figures = dict[str, float]
"""Seconds, or a ratio, by what they are of."""


class Bench:
    """The registry and those who pull from it."""

    def __init__(self, stack: ExitStack, folder: Path, scale: float) -> None:
        self.folder = folder
        self._scale = scale
        self._registry = stack.enter_context(DockerRegistry(folder / "registry"))
        wrapper = [sys.executable, watched.__file__]
        self.servers: dict[str, Server] = {
            "cri-imaged": stack.enter_context(
                contestants.cri_imaged(folder / "cri-imaged", wrapper=wrapper)
            )
        }
        try:
            self.servers["containerd"] = stack.enter_context(
                contestants.containerd(folder / "containerd")
            )
        except FileNotFoundError as error:
            print(f"without containerd: {error}", file=sys.stderr)

    def pushed(self, *names: str) -> list[str]:
        """References of those of `images`, or of the `crowd` where none is named."""
        made = images(names, self._scale) if names else crowd(self._scale)
        pushed = [self._registry.push(image, f"{name}:bench") for name, image in made]
        shutil.rmtree(self.folder / "registry" / "layouts")
        return pushed

    def stalls(self) -> list[float]:
        """Seconds, of this daemon's whole life so far."""
        log = (self.folder / "cri-imaged" / "daemon.log").read_text().splitlines()
        events = (json.loads(line) for line in log if line.startswith("{"))
        return [event["stalled_seconds"] for event in events if "stalled_seconds" in event]


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def beside(bench: Bench, who: str, rounds: int) -> Figures:
    """ImageStatus of one image while another is pulled."""
    server = bench.servers[who]
    tiny, app = bench.pushed("tiny", "app")
    client = Client(server.socket)
    before = len(bench.stalls())
    pulls: list[float] = []
    waits: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_PAUSE):
            waits.append(timed(lambda: client.status(tiny)))

    for _ in range(rounds):
        settle(bench.folder)
        server.pull(tiny)
        ended.clear()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            pulls.append(timed(lambda: server.pull(app)))
            ended.set()
            asking.result()
        server.forget(tiny, app)
    found = {
        "app": statistics.median(pulls),
        "ImageStatus p50": statistics.median(waits),
        "ImageStatus p99": statistics.quantiles(waits, n=100)[98],
        "ImageStatus longest": max(waits),
    }
    if who == "cri-imaged":
        found["longest stall"] = max(bench.stalls()[before:], default=0.0)
    return found


def many_at_once(bench: Bench, who: str, rounds: int) -> Figures:
    """Ten images, one after the other and all at once."""
    server = bench.servers[who]
    names = bench.pushed()
    in_turn, at_once, first, last = [], [], [], []
    for _ in range(rounds):
        settle(bench.folder)
        in_turn.append(timed(lambda: [server.pull(name) for name in names]))
        server.forget(*names)
        settle(bench.folder)
        with ThreadPoolExecutor(len(names)) as pool:
            begun = time.perf_counter()
            each = list(pool.map(lambda name: timed(lambda: server.pull(name)), names))
            at_once.append(time.perf_counter() - begun)
        server.forget(*names)
        first.append(min(each))
        last.append(max(each))
    return {
        "one after the other": statistics.median(in_turn),
        "at once": statistics.median(at_once),
        "first of these": statistics.median(first),
        "last of these": statistics.median(last),
    }


def over_link(bench: Bench, who: str, rounds: int) -> Figures:
    """A pull, and its layers alone."""
    server = bench.servers[who]
    (app,) = bench.pushed("app")
    print(link.slow_down(_MEGABITS), file=sys.stderr)
    try:
        layers, pulls = [], []
        for _ in range(rounds):
            settle(bench.folder)
            layers.append(timed(lambda: fetch_layers(app)))
            pulls.append(timed(lambda: server.pull(app)))
            server.forget(app)
    finally:
        link.restore()
    return {
        "pull": statistics.median(pulls),
        "layers alone": statistics.median(layers),
        "pull ÷ layers alone": statistics.median(pulls) / statistics.median(layers),
    }


def fetch_layers(reference: str) -> None:
    """All layers of an image at once, into nothing."""
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.partition(":")
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}

    def get(what: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(host)
        connection.request("GET", f"/v2/{repository}/{what}", headers=accept)
        return connection.getresponse()

    def drop(digest: str) -> None:
        with get(f"blobs/{digest}") as answer:
            buffer = bytearray(_READ)
            while answer.readinto(buffer):
                pass

    with get(f"manifests/{tag}") as answer:
        digests = [layer["digest"] for layer in json.loads(answer.read())["layers"]]
    with ThreadPoolExecutor(len(digests)) as pool:
        list(pool.map(drop, digests))


MEASURES = dict(zip(EXPERIMENTS, (beside, many_at_once, over_link), strict=True))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(EXPERIMENTS), metavar="EXPERIMENT,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the images' sizes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    if unknown := set(chosen.only).difference(EXPERIMENTS):
        parser.error(f"no such experiment: {', '.join(unknown)}; there are {EXPERIMENTS}")
    if os.geteuid():
        parser.error("overlay snapshots, and so the comparison, need root")
    return chosen


def main() -> None:
    chosen = options()
    link.enter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    described = machine()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    results: dict[str, dict[str, Figures]] = {}
    try:
        with ExitStack() as stack:
            bench = Bench(stack, folder, chosen.scale)
            for experiment in chosen.only:
                for who in bench.servers:
                    print(f"  {experiment}: {who}", file=sys.stderr, flush=True)
                    found = MEASURES[experiment](bench, who, chosen.rounds)
                    results.setdefault(experiment, {})[who] = found
            versions = {who: server.version for who, server in bench.servers.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("; ".join(f"{key} {value}" for key, value in described.items()))
    print("; ".join(f"{who}: {version}" for who, version in versions.items()) + "\n")
    print("| experiment | contestant | figure | seconds, or a ratio |\n|---|---|---|---|")
    for experiment, by_server in results.items():
        for who, found in by_server.items():
            for what, seconds in found.items():
                print(f"| {experiment} | {who} | {what} | {seconds:.4f} |")
    if chosen.json:
        written = {"machine": described, "versions": versions, "figures": results}
        chosen.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
