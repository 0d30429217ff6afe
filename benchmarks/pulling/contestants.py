"""Those who pull: each into an empty store below a directory, by its own default settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import grpc
from tests.support.daemon import PROGRAM, Daemon
from tests.support.process import Process, wait_until

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from pulling.processes import Family

CHECKOUT = Path(__file__).resolve().parent.parent.parent
BUILT = CHECKOUT / ".cache" / "containerd-2.4.2" / "containerd"
_SECONDS = 600


class Contestant(Protocol):
    """One of them, running."""

    family: Family
    version: str

    def pull(self, name: str) -> None:
        """Pull an image that is not there."""
        ...

    def forget(self, *names: str) -> None:
        """Remove all images there are, and all of their content."""
        ...


class Server(Contestant, Protocol):
    """One that answers more clients than the benchmark's own."""

    socket: Path


class Client:
    """A CRI client of one socket."""

    def __init__(self, socket: Path) -> None:
        channel = grpc.insecure_channel(f"unix:{socket}")
        self._images = api_pb2_grpc.ImageServiceStub(channel)
        self._runtime = api_pb2_grpc.RuntimeServiceStub(channel)

    def ready(self) -> bool:
        try:
            self._images.ImageFsInfo(api_pb2.ImageFsInfoRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return True

    def version(self) -> str:
        answer = self._runtime.Version(api_pb2.VersionRequest(), timeout=5)
        return f"{answer.runtime_name} {answer.runtime_version}"

    def pull(self, name: str) -> None:
        spec = api_pb2.ImageSpec(image=name)
        self._images.PullImage(api_pb2.PullImageRequest(image=spec), timeout=_SECONDS)

    def status(self, name: str) -> None:
        spec = api_pb2.ImageSpec(image=name)
        self._images.ImageStatus(api_pb2.ImageStatusRequest(image=spec), timeout=_SECONDS)

    def remove(self, name: str) -> None:
        spec = api_pb2.ImageSpec(image=name)
        self._images.RemoveImage(api_pb2.RemoveImageRequest(image=spec), timeout=_SECONDS)


class _CriImaged:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._client = Client(daemon.socket)
        self.socket = daemon.socket
        self.family = Family(daemon.process.pid)
        self.version = self._client.version()

    def pull(self, name: str) -> None:
        self._client.pull(name)

    def forget(self, *names: str) -> None:
        for name in names:
            self._client.remove(name)
        self._daemon.collect_garbage()


class _Containerd:
    def __init__(
        self, client: Client, socket: Path, process: Process, root: Path, version: str
    ) -> None:
        self._client = client
        self.socket = socket
        self._blobs = root / "io.containerd.content.v1.content" / "blobs" / "sha256"
        self._process = process
        self.family = Family(process.pid)
        self.version = version

    def pull(self, name: str) -> None:
        self._client.pull(name)

    def forget(self, *names: str) -> None:
        for name in names:
            self._client.remove(name)
        wait_until(lambda: not any(self._blobs.iterdir()), "blobs are collected", self._process)


class _Bare:
    version = "no safety, no metadata"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.family = Family(process.pid)

    def pull(self, name: str) -> None:
        self._ask(name)

    def forget(self, *names: str) -> None:
        self._ask("")

    def _ask(self, line: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n", "the bare pipeline failed"


@contextmanager
def cri_imaged(
    folder: Path,
    program: Path = PROGRAM,
    wrapper: Sequence[str] = (),
    *,
    snapshotter: str = "overlay",
) -> Iterator[Server]:
    """The daemon of this checkout, or of another one's `program`; `wrapper`: what runs it."""
    with Daemon(folder, snapshotter, program=program, level="info", wrapper=wrapper) as daemon:
        yield _CriImaged(daemon)


@contextmanager
def containerd(folder: Path) -> Iterator[Server]:
    """The one that `make containerd` built, else the system's."""
    program = str(BUILT) if BUILT.exists() else shutil.which("containerd")
    if program is None:
        raise FileNotFoundError("no containerd: `make containerd` builds it")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v?(\d+\.\d+\.\d+)", told)
    folder.mkdir()
    socket, root = folder / "containerd.sock", folder / "root"
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{root}"\nstate = "{folder / "state"}"\n'
        f'[grpc]\naddress = "{socket}"\n'
    )
    process = Process([program, "--config", str(config)], folder / "containerd.log")
    process.start()
    try:
        client = Client(socket)
        wait_until(client.ready, "containerd answers", process)
        yield _Containerd(client, socket, process, root, f"containerd {found[1] if found else ''}")
    finally:
        process.stop()


@contextmanager
def bare(folder: Path, *arguments: str) -> Iterator[Contestant]:
    """The floor: see `pulling.bare`."""
    folder.mkdir()
    command = [sys.executable, "-m", "pulling.bare", str(folder / "out"), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT / "benchmarks",
        env=os.environ,
    ) as process:
        assert process.stdin
        yield _Bare(process)
        process.stdin.close()
