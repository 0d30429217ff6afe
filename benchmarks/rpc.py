"""Ask for images over CRI: this daemon, containerd, and a grpcio server that answers ready bytes.

    python benchmarks/rpc.py [--images N] [--rounds N] [--few N] [--many N] [--json FILE]

Of each daemon, in an empty store on tmpfs: memory, a pull of N tiny images 8 at a time, memory
again, then ListImages, ImageStatus and pulls of what is here. They alternate, in another order each
round. Then this daemon alone, with few and with many images: what an RPC and a pull take of both.
Medians over the rounds. CPU time is that of all processes of a contestant, and holds on a busy
machine, too. Run as root. Needs docker-registry and skopeo (Debian's packages) and containerd:
`make containerd` or Debian's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from asking.caller import ask
from asking.store import fill
from asking.tiny import push, tiny
from pull import machine
from pulling import contestants
from pulling.contestants import Server
from pulling.images import MIB
from pulling.processes import Family
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Image
from tests.support.process import Process, wait_until

from cri_imaged.rpc.runtime.v1 import api_pb2 as cri
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc

Figures = dict[str, float]
AT_ONCE = 8
CALLERS = 4
WINDOW = 1.5
SAMPLE = 20
SETTLED_SECONDS = 1.0


def spec(name: str) -> cri.ImageSpec:
    return cri.ImageSpec(image=name)


def timed(
    family: Family,
    what: str,
    call: Callable[[Any], object],
    requests: Sequence[Any],
    settled: float = 0.0,
) -> Figures:
    """Median milliseconds of calls one after the other, and CPU milliseconds of the server for
    each, with what it does `settled` seconds after."""
    cpu = family.cpu_seconds()
    seconds = []
    for request in requests:
        began = time.perf_counter()
        call(request)
        seconds.append(time.perf_counter() - began)
    time.sleep(settled)
    cpu = family.cpu_seconds() - cpu
    return {
        f"{what}, p50 ms": statistics.median(seconds) * 1e3,
        f"{what}, CPU ms": cpu / len(requests) * 1e3,
    }


def answering(family: Family, socket: Path, name: str) -> Figures:
    """What RPCs that only show take."""
    figures: Figures = {}
    status = cri.ImageStatusRequest(image=spec(name)).SerializeToString()
    for method, request in (("ListImages", b""), ("ImageStatus", status)):
        cpu = family.cpu_seconds()
        one = ask(socket, method, request, callers=1, window=WINDOW)
        cpu = family.cpu_seconds() - cpu
        several = ask(socket, method, request, callers=CALLERS, window=WINDOW)
        figures |= {
            f"{method}, p50 ms": statistics.median(one.seconds) * 1e3,
            f"{method}, CPU ms": cpu / len(one.seconds) * 1e3,
            f"{method}, calls/s": several.per_second,
        }
    return figures


def compared(contestant: Server, names: Sequence[str]) -> Figures:
    """One round of a daemon with an empty store."""
    family = contestant.family
    time.sleep(SETTLED_SECONDS)
    figures = {"idle MiB": family.memory() / MIB}
    cpu, began = family.cpu_seconds(), time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(contestant.pull, names))
    figures["tiny images/s"] = len(names) / (time.perf_counter() - began)
    time.sleep(SETTLED_SECONDS)
    figures["a tiny image, CPU ms"] = (family.cpu_seconds() - cpu) / len(names) * 1e3
    figures["MiB with all"] = family.memory() / MIB
    figures |= answering(family, contestant.socket, names[len(names) // 2])
    return figures | timed(family, "pull of what is here", contestant.pull, names[:SAMPLE])


@contextmanager
def ready_bytes(folder: Path, names: Sequence[str], images: Sequence[Image]) -> Iterator[Process]:
    """The floor: see `asking.ready`. It answers for the same images."""
    folder.mkdir()
    shown = [
        cri.Image(
            id=image.id,
            repo_tags=[name],
            repo_digests=[f"{name.rpartition(':')[0]}@{image.id}"],
            size=image.size,
            spec=spec(image.id),
        )
        for name, image in zip(names, images, strict=True)
    ]
    (folder / "list").write_bytes(cri.ListImagesResponse(images=shown).SerializeToString())
    (folder / "status").write_bytes(cri.ImageStatusResponse(image=shown[0]).SerializeToString())
    files = [str(folder / name) for name in ("socket", "list", "status")]
    process = Process(
        [sys.executable, "-m", "asking.ready", *files],
        folder / "log",
        env={"PYTHONPATH": str(Path(__file__).resolve().parent)},
    )
    process.start()
    try:
        wait_until((folder / "socket").exists, "ready bytes are served", process)
        yield process
    finally:
        process.stop(number=signal.SIGKILL)


def compare(
    folder: Path, names: Sequence[str], images: Sequence[Image], rounds: int
) -> dict[str, list[Figures]]:
    """All contestants, each in a process and a store of its own each round."""
    found: dict[str, list[Figures]] = {}

    def daemon(
        start: Callable[[Path], AbstractContextManager[Server]],
    ) -> Callable[[Path], Figures]:
        def run(place: Path) -> Figures:
            with start(place) as contestant:
                return compared(contestant, names)

        return run

    def floor(place: Path) -> Figures:
        with ready_bytes(place, names, images) as process:
            return answering(Family(process.pid), place / "socket", names[0])

    order = [
        ("cri-imaged", daemon(contestants.cri_imaged)),
        ("containerd", daemon(contestants.containerd)),
        ("ready bytes", floor),
    ]
    for number in range(rounds):
        for who, run in order:
            try:
                figures = run(folder / f"{who} {number}".replace(" ", "-"))
            except FileNotFoundError as error:
                print(f"without {who}: {error}", file=sys.stderr)
                continue
            found.setdefault(who, []).append(figures)
            print(f"  round {number} {who}: {shown(figures)}", file=sys.stderr, flush=True)
        order.append(order.pop(0))
    return found


def grown(daemon: Daemon, names: Sequence[str]) -> Figures:
    """One round of a daemon that has other images already; it has no more of them after it."""
    family = Family(daemon.process.pid)
    figures = answering(family, daemon.socket, "registry.example/team1/image1:v1")
    with daemon.channel() as channel:
        stub = api_pb2_grpc.ImageServiceStub(channel)
        for what, call, request in (
            ("pull", stub.PullImage, cri.PullImageRequest),
            ("pull of what is here", stub.PullImage, cri.PullImageRequest),
            ("RemoveImage", stub.RemoveImage, cri.RemoveImageRequest),
        ):
            requests = [request(image=spec(name)) for name in names]
            figures |= timed(family, what, call, requests, SETTLED_SECONDS)
    return figures


def grow(
    folder: Path, names: Sequence[str], counts: Sequence[int], rounds: int
) -> dict[str, list[Figures]]:
    """This daemon with each of `counts` images, in alternating rounds."""
    daemons = {}
    found: dict[str, list[Figures]] = {f"{count} images": [] for count in counts}
    for count in counts:
        daemons[f"{count} images"] = Daemon(folder / f"with-{count}", level="info")
        asyncio.run(fill(folder / f"with-{count}" / "root", count))
    try:
        for daemon in daemons.values():
            daemon.start()
        order = list(daemons.items())
        for number in range(rounds + 1):
            for who, daemon in order:
                figures = grown(daemon, names)
                if number:  # the first one warms what there is to be warmed
                    found[who].append(figures)
                    print(f"  round {number} {who}: {shown(figures)}", file=sys.stderr, flush=True)
            order.append(order.pop(0))
    finally:
        for daemon in daemons.values():
            daemon.stop()
    return found


def shown(figures: Figures) -> str:
    return ", ".join(f"{what} {value:.4g}" for what, value in figures.items())


def medians(rounds: Sequence[Figures]) -> Figures:
    return {what: statistics.median(each[what] for each in rounds) for what in rounds[0]}


def table(found: dict[str, Figures], compared_with: str) -> str:
    """In Markdown: each figure, and how many times that of `compared_with` it is."""
    base = found[compared_with]
    columns = list(found)
    lines = [
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for what in base:
        cells = [
            f"{found[who][what]:.4g} ({found[who][what] / (base[what] or 1):.2f})"
            if what in found[who]
            else ""
            for who in columns
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="that contestants pull; 0: skip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=10_000, help="0: skip few and many")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    described = machine()
    images = tiny(max(chosen.images, SAMPLE))
    tables: dict[str, dict[str, Figures]] = {}
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    try:
        with DockerRegistry(folder / "registry") as registry:
            names = push(registry.host, images)
            if chosen.images:
                rounds = compare(folder, names, images, chosen.rounds)
                tables["cri-imaged"] = {who: medians(each) for who, each in rounds.items()}
            if chosen.many:
                counts = (chosen.few, chosen.many)
                rounds = grow(folder, names[:SAMPLE], counts, chosen.rounds)
                base = f"{chosen.few} images"
                tables[base] = {who: medians(each) for who, each in rounds.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("; ".join(f"{key} {value}" for key, value in described.items()))
    for base, found in tables.items():
        print(f"\n{table(found, base)}")
    if chosen.json:
        written = {"machine": described, "figures": tables}
        chosen.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
