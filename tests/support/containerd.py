"""A containerd of our own, with its root and sockets in one directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.crictl import Crictl, find_crictl
from tests.support.process import Process, wait_until
from tests.support.require import require_real
from tests.support.store import walk

CACHE = Path(__file__).parents[2] / ".cache"
VERSIONS = ("2.4.2", "2.3.4")
PLUGINS = Path("/usr/lib/cni")
PLUGIN = "cri-imaged"


def find_runc() -> Path:
    """The runc that `make runc` built."""
    built = CACHE / "bin" / "runc"
    require_real(built.exists(), "runc is not built (`make runc`)")
    return built


@dataclass
class Containerd:
    """One containerd. Survives `kill` and `start` with its root. Its pods outlive it, as anywhere:
    `close` ends them."""

    directory: Path
    snapshots: Path
    """The socket of our snapshots."""
    pause: str
    """The image of pods' sandboxes."""
    version: str = VERSIONS[0]
    snapshotter: str = PLUGIN
    networked: bool = False
    """Whether pods may have a network of their own, which leads nowhere."""
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        require_real(os.geteuid() == 0, "only root can run containers")
        require_real(self._bin.is_dir(), f"containerd {self.version} is not built (`make real`)")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._runc = find_runc()
        if self.networked:
            self._write_network()
        self.write_config()
        self.process = Process(
            [str(self._bin / "containerd"), "--config", str(self.config)],
            self.directory / "containerd.log",
            env={"PATH": f"{self._bin}:{os.environ['PATH']}"},
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        self.process.start()
        wait_until(self._ready, "containerd's CRI plugin answers", self.process)

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.stop(number=signal.SIGKILL)

    def close(self) -> None:
        """End every pod, then containerd."""
        if self.process.running:
            self.end_pods()
        self.stop()
        if self.networked:
            link = ["ip", "link", "delete", self._bridge]
            subprocess.run(link, capture_output=True, check=False, timeout=60)

    def end_pods(self) -> None:
        for pod in self.crictl("pods", "--quiet").split():
            self.crictl.run("stopp", pod)
            self.crictl.run("rmp", "--force", pod)

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def socket(self) -> Path:
        return self.directory / "containerd.sock"

    @property
    def crictl(self) -> Crictl:
        """crictl, with both endpoints at containerd."""
        return Crictl(find_crictl(), f"unix://{self.socket}")

    def ctr(self, *arguments: str, namespace: str = "k8s.io") -> str:
        run = subprocess.run(
            [self._bin / "ctr", "--address", self.socket, "--namespace", namespace, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert run.returncode == 0, f"ctr {' '.join(arguments)}: {run.stdout}{run.stderr}"
        return run.stdout

    def collect(self) -> None:
        """Have it collect its garbage."""
        self.ctr("leases", "create", "--id", "collects")
        self.ctr("leases", "delete", "--sync", "collects")

    def content_bytes(self) -> int:
        """Bytes of all blobs in the content store."""
        blobs = self.root / "io.containerd.content.v1.content" / "blobs"
        return sum(info.st_size for _, info in walk(blobs) if stat.S_ISREG(info.st_mode))

    def image_names(self) -> set[str]:
        return set(self.ctr("images", "list", "--quiet").split())

    def wipe(self) -> None:
        """Remove everything that it has on disk; it must not be running."""
        shutil.rmtree(self.root)

    def write_config(self) -> None:
        runtime = "io.containerd.cri.v1.runtime"
        runc = f"plugins.'{runtime}'.containerd.runtimes.runc"
        self.config.write_text(f"""\
version = 3
root = "{self.root}"
state = "{self.directory / "state"}"

[grpc]
address = "{self.socket}"

[debug]
level = "debug"
address = "{self.directory / "debug.sock"}"

[proxy_plugins.'{PLUGIN}']
type = "snapshot"
address = "{self.snapshots}"
capabilities = ["remap-ids"]
[proxy_plugins.'{PLUGIN}'.exports]
root = "{self.directory}"

[plugins.'io.containerd.cri.v1.images']
snapshotter = "{self.snapshotter}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{self.pause}"

[plugins.'{runtime}']
restrict_oom_score_adj = {str(not _may_lower_oom_score()).lower()}
[plugins.'{runtime}'.cni]
conf_dir = "{self.directory / "cni"}"
bin_dirs = ["{PLUGINS}"]
[{runc}]
runtime_type = "io.containerd.runc.v2"
[{runc}.options]
BinaryName = "{self._runc}"

[plugins.'io.containerd.nri.v1.nri']
disable = true
""")

    def _write_network(self) -> None:
        require_real(PLUGINS.is_dir(), "no CNI plugins (containernetworking-plugins)")
        folder = self.directory / "cni"
        addresses = {
            "type": "host-local",
            "subnet": "10.213.0.0/16",
            "dataDir": str(self.directory / "addresses"),
        }
        bridge = {"type": "bridge", "bridge": self._bridge, "ipam": addresses}
        folder.mkdir()
        (folder / "pods.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]})
        )

    @property
    def _bridge(self) -> str:
        return f"cri{zlib.crc32(str(self.directory).encode()):08x}"

    @property
    def _bin(self) -> Path:
        return CACHE / f"containerd-{self.version}"

    def _ready(self) -> bool:
        run = self.crictl.run("info")
        return run.returncode == 0 and bool(json.loads(run.stdout))


def _may_lower_oom_score() -> bool:
    """Whether this machine lets root have CAP_SYS_RESOURCE."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return bool(effective >> 24 & 1)


@dataclass
class Pods:
    """Pods in the host's network, and containers in them, through one containerd's CRI."""

    containerd: Containerd
    directory: Path
    count: int = 0
    _configs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sandbox(self, name: str, **config: Any) -> str:
        """Run a pod; returns its ID."""
        self._configs[name] = self._pod(name) | config
        path = self._write(f"pod-{name}", self._configs[name])
        return self.containerd.crictl("runp", str(path)).strip()

    def create(self, pod: str, pod_name: str, image: str, *command: str, **config: Any) -> str:
        """Create a container in `pod` from `image` as the kubelet does: by its ID."""
        self.count += 1
        name = f"c{self.count}"
        container = {
            "metadata": {"name": name},
            "image": {"image": image},
            "log_path": f"{name}.log",
            **({"command": command} if command else {}),
            **config,
        }
        pod_config = self._configs.get(pod_name) or self._pod(pod_name)
        files = (self._write(name, container), self._write(f"pod-{pod_name}", pod_config))
        return self.containerd.crictl("create", pod, *map(str, files)).strip()

    def tries(self, pod: str, pod_name: str, image: str) -> str:
        """As `create`; empty where it is refused."""
        try:
            return self.create(pod, pod_name, image)
        except AssertionError:
            return ""

    def run(self, name: str, image: str, *command: str, **config: Any) -> str:
        """A new pod with one container, started; returns the container's ID."""
        container = self.create(self.sandbox(name), name, image, *command, **config)
        self.containerd.crictl("start", container)
        return container

    def output(self, container: str) -> str:
        """What a container printed, once it has ended."""
        wait_until(lambda: self.state(container) == "CONTAINER_EXITED", "the container ends")
        return self.containerd.crictl("logs", container)

    def state(self, container: str) -> str:
        status = json.loads(self.containerd.crictl("inspect", container))["status"]
        return str(status["state"])

    def _pod(self, name: str) -> dict[str, Any]:
        logs = self.directory / "logs" / name
        logs.mkdir(parents=True, exist_ok=True)
        return {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "default"},
            "log_directory": str(logs),
            "linux": {"security_context": {"namespace_options": {"network": 2}}},
        }

    def _write(self, name: str, value: dict[str, Any]) -> Path:
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps(value))
        return path
