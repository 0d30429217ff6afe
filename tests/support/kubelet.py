"""A kubelet without a cluster: static pods from a folder."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cri_imaged.mounting import mounts, unmount
from tests.support.containerd import CACHE
from tests.support.daemon import free_port
from tests.support.process import Process
from tests.support.require import require_real

PROGRAM = CACHE / "bin" / "kubelet"
_AT_FIRST = "Stats initialization may not have completed yet"
LOG_LINKS = Path("/var/log/containers")
"""Every kubelet of a machine has its links to logs here."""


@dataclass
class Kubelet:
    """Runs the pods whose manifests are in `manifests`."""

    directory: Path
    runtime: Path
    """containerd's socket."""
    images: Path
    """The image service's socket."""
    options: dict[str, Any] = field(default_factory=dict)
    """More of its configuration."""
    arguments: Sequence[str] = ()
    """More of its command line."""
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        require_real(PROGRAM.exists(), "kubelet is not built (`make kubelet`)")
        require_real(os.geteuid() == 0, "only root runs a kubelet")
        self.manifests.mkdir(parents=True)
        config = self.directory / "kubelet.yaml"
        config.write_text(json.dumps(self._configuration()))  # JSON is YAML
        command = [
            str(PROGRAM),
            "--config",
            str(config),
            "--root-dir",
            str(self.directory / "root"),
        ]
        command += [
            "--hostname-override",
            "node",
            "--cert-dir",
            str(self.directory / "pki"),
            "-v=2",
            *self.arguments,
        ]
        self.process = Process(command, self.directory / "kubelet.log")

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for manifest in self.manifests.iterdir():
            manifest.unlink()
        self.process.stop(number=signal.SIGKILL)
        for info in reversed(mounts()):
            if info.mount_point.startswith(str(self._root)):
                unmount(Path(info.mount_point), lazy=True)
        # The next one would ask after each container that a link here names.
        for link in LOG_LINKS.glob("*.log"):
            if os.readlink(link).startswith(str(self.directory)):
                link.unlink()

    @property
    def _root(self) -> Path:
        return self.directory / "root"

    @property
    def manifests(self) -> Path:
        return self.directory / "manifests"

    def run(self, name: str, image: str, *command: str, **pod: Any) -> None:
        """Give it a pod of one container; `pod` is more of the pod's spec."""
        container = {
            "name": "main",
            "image": image,
            "imagePullPolicy": "Always",
            **({"command": command} if command else {}),
            **pod.pop("container", {}),
        }
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"hostNetwork": True, "terminationGracePeriodSeconds": 0}
            | {"containers": [container], **pod},
        }
        new = self.directory / f"{name}.json"
        new.write_text(json.dumps(manifest))
        new.rename(self.manifests / f"{name}.json")

    def stop(self, name: str) -> None:
        (self.manifests / f"{name}.json").unlink()

    def errors(self) -> dict[tuple[str, str], str]:
        """A line for each kind of those that klog marks as errors: whence in its source they come,
        and with what words. Without those that a kubelet may have or not, as it measures nothing
        yet when it first looks."""
        line = r'^E\d{4} .*? (\w+\.go):\d+\] ("[^"]*").*$'
        found = re.finditer(line, self.process.log(), re.MULTILINE)
        return {(each[1], each[2]): each[0] for each in found if _AT_FIRST not in each[2]}

    def _configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": "127.0.0.1",
            "port": free_port(),
            "healthzPort": 0,
            "containerRuntimeEndpoint": f"unix://{self.runtime}",
            "imageServiceEndpoint": f"unix://{self.images}",
            "staticPodPath": str(self.manifests),
            "fileCheckFrequency": "1s",
            "syncFrequency": "2s",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%"},
            "podLogsDir": str(self.directory / "pods"),
            "featureGates": {"ImageVolume": True},
        } | self.options
