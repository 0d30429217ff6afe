"""The daemon as its users run it: a process with a configuration file and a socket."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from cri_imaged.rpc.node.v1 import node_pb2, node_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.support.erofs import WHOLE
from tests.support.leaks import emitted
from tests.support.mounts import let_go
from tests.support.process import Process, wait_until
from tests.support.unprivileged import as_nobody

PROGRAM = Path(sys.executable).parent / "cri-imaged"


def free_port() -> int:
    """A loopback port that nobody listens on now, and that no outgoing connection is given: a
    daemon that is started again finds it free."""
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10_000, lowest_outgoing)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class Daemon:
    """One daemon over one directory. Survives `kill` and `start` with its store."""

    directory: Path
    snapshotter: str = "overlay"
    privileged: bool = True
    """False: run as the user nobody."""
    image_options: str = ""
    """More TOML for `[image]`: keys first, then tables such as `[image.registry]`."""
    metrics_options: str = ""
    """More TOML for `[metrics]`."""
    level: str = "debug"
    wrapper: Sequence[str] = ()
    """A command that runs the daemon's, such as setpriv."""
    program: Path = PROGRAM
    metrics_port: int = field(default_factory=free_port)
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._toml())
        command = [*self.wrapper, str(self.program), "serve", "--config", str(self.config)]
        env = {}
        if not self.privileged:
            for path in (self.directory, self.config):
                os.chown(path, 65534, 65534)
            command = as_nobody(command, self.directory)
            env = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
        self.process = Process(command, self.directory / "daemon.log", env=env)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        let_go(self.state)  # layers of views that were left

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it answers."""
        self.process.start()
        wait_until(self._answers, "the daemon answers", self.process)

    def stop(self) -> None:
        """Stop by SIGTERM, which must work."""
        if self.process.running:
            with suppress(OSError):
                self.metrics()  # for what the page may leak
            code = self.process.stop()
            assert code == 0, f"the daemon ended with {code} on SIGTERM:\n{self.log()[-4000:]}"

    def kill(self) -> None:
        """Kill -9. The log shows what it was doing."""
        self.process.stop(number=signal.SIGKILL)

    # --- where things are ---------------------------------------------------------------------

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def socket(self) -> Path:
        return self.directory / "cri.sock"

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def log(self) -> str:
        return self.process.log()

    def log_lines(self) -> list[dict[str, Any]]:
        """What was logged as JSON; other lines (a traceback of Python's) are left out."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    # --- talking ------------------------------------------------------------------------------

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.endpoint)

    def pull(self, reference: str, *, timeout: float = 120, **auth: str) -> str:
        """PullImage; returns the image's ID."""
        request = api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=reference))
        if auth:
            request.auth.CopyFrom(api_pb2.AuthConfig(**auth))
        with self.channel() as channel:
            stub = api_pb2_grpc.ImageServiceStub(channel)
            try:
                image_ref: str = stub.PullImage(request, timeout=timeout).image_ref
            except grpc.RpcError as error:
                emitted("PullImage's error", str(error))
                raise
            return image_ref

    async def pull_meanwhile(self, reference: str, *, within: float) -> str:
        """As `pull`, beside what the test's event loop serves."""
        return await asyncio.to_thread(self.pull, reference, timeout=within)

    def images(self) -> list[api_pb2.Image]:
        with self.channel() as channel:
            stub = api_pb2_grpc.ImageServiceStub(channel)
            return list(stub.ListImages(api_pb2.ListImagesRequest(), timeout=10).images)

    def image(self, name: str) -> api_pb2.Image | None:
        """ImageStatus's image, or None where it is unknown."""
        request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=name))
        with self.channel() as channel:
            answer = api_pb2_grpc.ImageServiceStub(channel).ImageStatus(request, timeout=10)
            return answer.image if answer.HasField("image") else None

    def remove(self, name: str) -> None:
        request = api_pb2.RemoveImageRequest(image=api_pb2.ImageSpec(image=name))
        with self.channel() as channel:
            api_pb2_grpc.ImageServiceStub(channel).RemoveImage(request, timeout=10)

    def collect_garbage(self) -> None:
        """Drop what no image needs, and what failed pulls left to be resumed."""
        with self.channel() as channel:
            stub = node_pb2_grpc.NodeStub(channel)
            stub.CollectGarbage(node_pb2.CollectGarbageRequest(resumable=True), timeout=60)

    def metrics(self, path: str = "/metrics") -> str:
        """The metrics page."""
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
        emitted(url, text)
        return text

    def metric(self, series: str) -> float:
        """One value, by name and labels as the page spells them; 0 where it is not there."""
        for line in self.metrics().splitlines():
            if line.startswith(series + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of our own client commands against this daemon."""
        run = subprocess.run(
            [str(self.program), *arguments],
            env={**os.environ, "CRI_IMAGED_ADDRESS": str(self.socket)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )
        emitted(f"what cri-imaged {arguments[0]} prints", run.stdout + run.stderr)
        return run

    def _answers(self) -> bool:
        with self.channel() as channel:
            try:
                stub = api_pb2_grpc.RuntimeServiceStub(channel)
                return bool(stub.Version(api_pb2.VersionRequest(), timeout=5).version)
            except grpc.RpcError:
                return False

    def _toml(self) -> str:
        return f"""\
root = "{self.root}"
state = "{self.state}"

[grpc]
address = "{self.socket}"

[metrics]
address = "127.0.0.1:{self.metrics_port}"
{self.metrics_options}

[debug]
level = "{self.level}"
format = "json"

[image]
snapshotter = "{self.snapshotter}"
{f"erofs_loop_devices = {str(WHOLE).lower()}" if self.snapshotter == "erofs" else ""}
{self.image_options}
"""
