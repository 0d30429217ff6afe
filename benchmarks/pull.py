"""Pull whole images: this daemon beside containerd, in one run.

    python benchmarks/pull.py [--rounds N] [--scale F] [--json FILE]

A local docker-registry serves generated images; each contender pulls over its CRI socket into an
empty store on tmpfs, with its own default settings, and removes what it pulled between rounds.
One round is not counted; contenders alternate; medians over the rounds. Run as root.

Needs docker-registry, skopeo and containerd (Debian's packages of these names).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import Image, directory, file, image, layer
from tests.support.process import Process, wait_until

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc

Contender = Callable[[str], str]


def small_files(source: random.Random, files: int, compression: str, prefix: str) -> object:
    """A layer as a language's packages are: many small files of text."""
    words = [bytes(source.choices(range(97, 123), k=source.randrange(2, 9))) for _ in range(4000)]
    tree = {}
    for number in range(files):
        if number % 12 == 0:
            tree[f"{prefix}/{number // 12:05}"] = directory()
        size = min(int(source.lognormvariate(7.5, 1.1)), 60_000)
        text = b" ".join(source.choices(words, k=size // 6))
        tree[f"{prefix}/{number // 12:05}/file{number}"] = file(text)
    return layer(tree, compression)  # type: ignore[arg-type]


def large_files(source: random.Random, mebibytes: int, compression: str, prefix: str) -> object:
    """A layer of a few programs: large, half of it noise."""
    words = source.randbytes(1 << 19)
    tree = {}
    for number in range(4):
        data = bytearray()
        while len(data) < (mebibytes << 20) // 4:
            at = source.randrange(len(words) - 4096)
            data += words[at : at + source.randrange(16, 256)] + bytes(source.randrange(0, 64))
        tree[f"{prefix}/program{number}"] = file(bytes(data), 0o755)
    return layer(tree, compression)  # type: ignore[arg-type]


def images(scale: float) -> Iterator[tuple[str, Image]]:
    source = random.Random(1)
    files, mebibytes = int(6000 * scale), int(64 * scale)
    for compression in ("gzip", "zstd"):
        yield (
            f"one-layer-{compression}",
            image(small_files(source, 2 * files, compression, "usr/lib")),  # type: ignore[arg-type]
        )
        yield (
            f"eight-layers-{compression}",
            image(
                *(small_files(source, files // 2, compression, f"usr/lib{n}") for n in range(4)),  # type: ignore[arg-type]
                *(large_files(source, mebibytes // 2, compression, f"opt/{n}") for n in range(4)),  # type: ignore[arg-type]
            ),
        )
        yield (
            f"large-files-{compression}",
            image(large_files(source, 4 * mebibytes, compression, "opt")),  # type: ignore[arg-type]
        )


class Client:
    """A CRI client of one socket."""

    def __init__(self, socket: Path) -> None:
        self._images = api_pb2_grpc.ImageServiceStub(grpc.insecure_channel(f"unix:{socket}"))

    def ready(self) -> bool:
        try:
            self._images.ImageFsInfo(api_pb2.ImageFsInfoRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return True

    def pull(self, name: str) -> float:
        begun = time.perf_counter()
        spec = api_pb2.ImageSpec(image=name)
        self._images.PullImage(api_pb2.PullImageRequest(image=spec), timeout=600)
        return time.perf_counter() - begun

    def remove(self, name: str) -> None:
        spec = api_pb2.ImageSpec(image=name)
        self._images.RemoveImage(api_pb2.RemoveImageRequest(image=spec), timeout=600)


@contextmanager
def containerd(folder: Path) -> Iterator[Client]:
    folder.mkdir()
    socket = folder / "containerd.sock"
    (folder / "config.toml").write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        f'[grpc]\naddress = "{socket}"\n'
    )
    process = Process(
        ["containerd", "--config", str(folder / "config.toml")], folder / "containerd.log"
    )
    process.start()
    try:
        client = Client(socket)
        wait_until(client.ready, "containerd answers", process)
        yield client
    finally:
        process.stop()


def settle(folder: Path) -> None:
    """Let background removal finish, and warm the memory that stores are put in."""
    warm = folder / "warm"
    with warm.open("wb") as out:
        for _ in range(1536):
            out.write(bytes(1 << 20))
    warm.unlink()
    time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    try:
        with ExitStack() as stack:
            registry = stack.enter_context(DockerRegistry(folder / "registry"))
            names = {
                label: registry.push(made, f"{label}:bench")
                for label, made in images(arguments.scale)
            }
            daemon = stack.enter_context(Daemon(folder / "daemon"))
            contenders = {
                "cri-imaged": Client(daemon.socket),
                "containerd": stack.enter_context(containerd(folder / "containerd")),
            }
            for label, name in names.items():
                times: dict[str, list[float]] = {who: [] for who in contenders}
                for number in range(arguments.rounds + 1):
                    for who, client in contenders.items():
                        settle(folder)
                        seconds = client.pull(name)
                        client.remove(name)
                        if who == "cri-imaged":
                            daemon.cli("gc", "--resumable")
                        if number:
                            times[who].append(seconds)
                medians = {who: statistics.median(values) for who, values in times.items()}
                ratio = medians["cri-imaged"] / medians["containerd"]
                results[label] = {**medians, "ratio": ratio}
                print(
                    f"{label:20} cri-imaged {medians['cri-imaged']:6.2f} s"
                    f"   containerd {medians['containerd']:6.2f} s   ratio {ratio:.2f}",
                    flush=True,
                )
        if arguments.json:
            machine = {"cpus": os.cpu_count(), "kernel": os.uname().release}
            arguments.json.write_text(
                json.dumps({"machine": machine, "seconds": results}, indent=1)
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
