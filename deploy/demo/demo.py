"""The main job, shown from beginning to end: `make demo`.

Starts a registry with a sample image and a daemon over an empty store, both for themselves in a
temporary folder, then pulls, lists, inspects, looks into the root file system, runs a program of
it, reads the metrics, removes, and stops. Needs no network and no privilege; with root the root
file system is mounted. Exits with 0 only if everything worked.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from registry import serve
from rich.console import Console
from sample import DATA_BYTES, GREETING, make_sample

from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc

PROGRAM = Path(sys.executable).parent / "cri-imaged"
START_SECONDS = 30.0
STOP_SECONDS = 30.0

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """Something did not do what the demo shows."""


def step(title: str) -> None:
    """Say what comes next."""
    console.print(f"\n[bold cyan]==> {title}[/bold cyan]")


def expect(condition: bool, what: str) -> None:
    """Go on only if `condition`; say so."""
    if not condition:
        raise DemoError(what)
    console.print(f"    [green]ok[/green]  {what}")


@dataclass(frozen=True)
class Node:
    """The running daemon, from its clients' side."""

    process: subprocess.Popen[bytes]
    directory: Path
    metrics_port: int

    @property
    def socket(self) -> Path:
        """Where clients connect."""
        return self.directory / "cri.sock"

    def run(self, *command: str) -> str:
        """Run a command line client in front of the viewer; returns what it printed."""
        name = Path(command[0]).name
        console.print(f"[bold]$ {' '.join([name, *command[1:]])}[/bold]")
        env = {**os.environ, "CRI_IMAGED_ADDRESS": str(self.socket)}
        # With a terminal, progress is drawn on it (standard error) while the answer is captured.
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
        console.print(done.stdout.rstrip(), markup=False)
        if done.returncode != 0:
            raise DemoError(f"{name} {command[1]} ended with {done.returncode}")
        return done.stdout

    def imaged(self, *arguments: str) -> str:
        """Run one of our own client commands."""
        return self.run(str(PROGRAM), *arguments)


@contextmanager
def daemon(directory: Path) -> Iterator[Node]:
    """A daemon over an empty store; stopped at the end, by SIGTERM."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = directory / "config.toml"
    config.write_text(
        f'root = "{directory / "root"}"\nstate = "{directory / "state"}"\n'
        f'[grpc]\naddress = "{directory / "cri.sock"}"\nuid = {os.getuid()}\ngid = {os.getgid()}\n'
        f'[metrics]\naddress = "127.0.0.1:{port}"\n'
    )
    console.print(f"[bold]$ cri-imaged serve --config {config}[/bold]")
    console.print(config.read_text().rstrip(), style="dim", markup=False)
    with (directory / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), "serve", "--config", str(config)], stdin=subprocess.DEVNULL, stderr=log
        )
    node = Node(process, directory, port)
    try:
        wait_for(node)
        yield node
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(node: Node) -> None:
    """Wait until the daemon answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and node.process.poll() is None:
        with grpc.insecure_channel(f"unix://{node.socket}") as channel:
            try:
                stub = api_pb2_grpc.RuntimeServiceStub(channel)
                answer = stub.Version(api_pb2.VersionRequest(), timeout=5)
            except grpc.RpcError:
                time.sleep(0.05)
                continue
        expect(True, f"{answer.runtime_name} {answer.runtime_version} answers at {node.socket}")
        return
    raise DemoError("the daemon did not start")


# --- the steps ------------------------------------------------------------------------------


def pull(node: Node, reference: str) -> str:
    """Pull the image; returns its ID."""
    step("Pull an image over the CRI socket")
    begun = time.monotonic()
    node.imaged("pull", reference)
    seconds = time.monotonic() - begun
    console.print(f"    {DATA_BYTES / (1 << 20):.0f} MiB and a program, in {seconds:.1f} s")
    request = api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=reference))
    with grpc.insecure_channel(f"unix://{node.socket}") as channel:
        image = api_pb2_grpc.ImageServiceStub(channel).ImageStatus(request, timeout=10).image
    expect(reference in image.repo_tags, f"{reference} is image {image.id}")
    return str(image.id)


def look(node: Node, reference: str, image_id: str) -> None:
    """List and inspect."""
    step("List and inspect what is there")
    listed = node.imaged("images")
    expect(reference.rpartition(":")[0] in listed, "the image is listed")
    shown = node.imaged("inspect", image_id)
    expect(image_id in shown, "inspect finds it by its ID")
    if crictl := shutil.which("crictl") or built_crictl():
        endpoint = f"--image-endpoint=unix://{node.socket}"
        runtime = f"--runtime-endpoint=unix://{node.socket}"
        table = node.run(crictl, "--config=/dev/null", runtime, endpoint, "images")
        expect(reference.rpartition(":")[0] in table, "crictl lists it as well")


def built_crictl() -> str | None:
    """The crictl that `make crictl` built."""
    path = Path(__file__).parents[2] / ".cache" / "bin" / "crictl"
    return str(path) if path.exists() else None


def enter(node: Node, reference: str) -> None:
    """Look into the root file system and run a program of the image there."""
    target = node.directory / "mounted"
    target.mkdir()
    if os.geteuid() == 0:
        step("Mount the root file system and run a program in it")
        node.imaged("mount", reference, str(target))
        root, hello = target, ["chroot", str(target), "/bin/hello"]
    else:
        step("Look at the root file system and run a program of it (root would mount it)")
        view = json.loads(node.imaged("mount", "--no-mount", "-o", "json", reference, str(target)))
        root = Path(view["mounts"][0]["source"])
        hello = [str(root / "bin/hello")]
    try:
        check_root(root, hello)
    finally:
        node.imaged("umount", str(target))


def check_root(directory: Path, hello: list[str]) -> None:
    """Compare what is in `directory` with what the sample holds."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    console.print(f"    {directory}: {' '.join(names)}")
    expect((directory / "srv/data").stat().st_size == DATA_BYTES, "a file of the lower layer")
    expect(not (directory / "etc/motd").exists(), "a file that the upper layer removes is gone")
    if not (directory / "bin/hello").exists():
        return
    said = subprocess.run(hello, stdout=subprocess.PIPE, text=True, check=False).stdout
    expect(said == GREETING, f"/bin/hello says: {said.strip()}")


def count(node: Node) -> None:
    """Read the metrics."""
    step("Read the metrics that Prometheus would scrape")
    url = f"http://127.0.0.1:{node.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    shown = [each for each in lines if each.startswith("containerd_") and "_bucket" not in each]
    console.print("\n".join(f"    {each}" for each in shown), markup=False)
    success = 'containerd_cri_image_pulls_total{status="success"} 1.0'
    expect(success in lines, "one pull succeeded")
    expect("containerd_cri_in_progress_image_pulls_total 0.0" in lines, "none is running")


def remove(node: Node, reference: str) -> None:
    """Remove the image and see its space come back."""
    step("Remove it, and give the space back")
    node.imaged("rm", reference)
    node.imaged("gc")
    node.imaged("fs")
    listed = node.imaged("images")
    expect(reference.rpartition(":")[0] not in listed, "the image is gone")
    left = sum(path.stat().st_size for path in (node.directory / "root/content").rglob("*"))
    expect(left < DATA_BYTES, "and so are its blobs")


def show(directory: Path) -> None:
    """All steps, in order."""
    step("Start a registry with a sample image, and the daemon over an empty store")
    with serve(make_sample(), "demo/sample", "1.0") as reference:
        console.print(f"    the registry serves {reference}")
        with daemon(directory) as node:
            image_id = pull(node, reference)
            look(node, reference, image_id)
            enter(node, reference)
            count(node)
            remove(node, reference)
            step("Stop")
        expect(node.process.returncode == 0, "the daemon stopped cleanly on SIGTERM")


def main() -> int:
    """Run the demo; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="cri-imaged-demo-") as folder:
        directory = Path(folder)
        try:
            show(directory)
        except DemoError as error:
            console.print(f"[bold red]not shown:[/bold red] {error}")
            log = directory / "daemon.log"
            if log.exists():
                console.print(log.read_text()[-4000:], style="dim", markup=False)
            return 1
    console.print("\n[bold green]Everything worked.[/bold green]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
