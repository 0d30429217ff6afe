"""Start a daemon over a store of many images: seconds to the first answer, and what asking costs.

    python benchmarks/start.py [--images N [N ...]] [--rounds N] [--json FILE]

The store is made with the daemon's own rows and files: images of three layers, each with its own
blobs and (empty) snapshots, the lowest layer shared by ten. Times are taken from the process's
start to the first answer of Version, and of ImageStatus and ListImages after it, over the socket.
Medians over the rounds. Run as root.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc
from asking.store import fill
from tests.support.daemon import Daemon

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc


def listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


def measure(daemon: Daemon, count: int) -> dict[str, float]:
    begun = time.perf_counter()
    daemon.process.start()
    # A channel that finds no server waits a second before it looks again.
    while not listens(daemon.socket):
        time.sleep(0.002)
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        service = api_pb2_grpc.ImageServiceStub(channel)
        runtime.Version(api_pb2.VersionRequest(), timeout=10)
        started = time.perf_counter() - begun
        wanted = api_pb2.ImageStatusRequest(
            image=api_pb2.ImageSpec(image=f"registry.example/team1/image{count // 20 * 20 - 19}:v1")
        )
        status = []
        for _ in range(300):
            begun = time.perf_counter()
            assert service.ImageStatus(wanted).image.id
            status.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        listed = len(service.ListImages(api_pb2.ListImagesRequest()).images)
        listing = time.perf_counter() - begun
    assert listed == count, f"{listed} of {count} images are shown"
    daemon.stop()
    return {"start": started, "status": statistics.median(status), "list": listing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[20, 2000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for count in arguments.images:
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
        try:
            daemon = Daemon(folder)
            asyncio.run(fill(daemon.root, count))
            rounds = [measure(daemon, count) for _ in range(arguments.rounds)]
        finally:
            shutil.rmtree(folder)
        results[count] = {
            key: statistics.median(each[key] for each in rounds)
            for key in ("start", "status", "list")
        }
        print(
            f"{count:6} images: first answer after {results[count]['start']:.2f} s, "
            f"ImageStatus {results[count]['status'] * 1e3:.2f} ms, "
            f"ListImages {results[count]['list'] * 1e3:.1f} ms",
            flush=True,
        )
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "kernel": os.uname().release}
        arguments.json.write_text(json.dumps({"machine": machine, "seconds": results}, indent=1))


if __name__ == "__main__":
    main()
