"""A node: our daemon, and a containerd that runs what it pulls."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.containerd import VERSIONS, Containerd, Pods
from tests.support.daemon import Daemon
from tests.support.process import wait_until


@dataclass
class Node:
    """Use as a context manager: both run, and containerd knows the pause image."""

    directory: Path
    pause: str
    version: str = VERSIONS[0]
    image_options: str = ""
    networked: bool = False
    snapshotter: str = "overlay"
    daemon: Daemon = field(init=False)
    containerd: Containerd = field(init=False)
    pods: Pods = field(init=False)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.daemon = Daemon(
            self.directory / "daemon", self.snapshotter, image_options=self._options()
        )
        self.containerd = Containerd(
            self.directory / "containerd",
            self.snapshots,
            self.pause,
            version=self.version,
            networked=self.networked,
        )
        self.pods = Pods(self.containerd, self.directory)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.daemon)
        self._stack.enter_context(self.containerd)
        self.settled()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def snapshots(self) -> Path:
        return self.directory / "snapshots.sock"

    def settled(self) -> None:
        """Wait until containerd is there and knows all of our images."""
        wait_until(lambda: self._is_settled(), "containerd knows every image", self.daemon.process)

    def status(self) -> dict[str, Any]:
        """How our daemon stands with containerd."""
        answer = json.loads(self.daemon.cli("status", "-o", "json").stdout)
        (found,) = [each for each in answer["runtimes"] if each["name"] == "containerd"]
        return dict(found)

    def held(self) -> list[dict[str, Any]]:
        """What containerd holds of our snapshotter."""
        answer = json.loads(self.daemon.cli("runtime", "snapshots", "-o", "json").stdout)
        return list(answer["snapshots"])

    def references(self) -> set[str]:
        """Tags and digests of our images."""
        return {
            name
            for image in self.daemon.images()
            for name in (*image.repo_tags, *image.repo_digests)
        }

    def agrees(self) -> bool:
        """Whether containerd's images are ours, name for name."""
        ours = self.references() | {image.id for image in self.daemon.images()}
        return self.containerd.image_names() == ours

    def clear(self) -> None:
        """End every pod and remove every image but the pause image; forget what was logged."""
        self.containerd.end_pods()
        for image in self.daemon.images():
            if not image.pinned:
                self.daemon.remove(image.id)
        self.daemon.cli("gc", "--resumable")
        self.daemon.process.log_path.write_text("")

    def end(self, container: str) -> None:
        """Stop and remove a container and its pod."""
        status = self.containerd.crictl.json("inspect", container)
        pod = status["info"]["sandboxID"]
        self.containerd.crictl("stopp", pod)
        self.containerd.crictl("rmp", "--force", pod)

    def chain(self, image_id: str) -> str:
        """The chainID of an image's layers."""
        answer = json.loads(self.daemon.cli("inspect", "-o", "json", image_id).stdout)
        return str(answer["info"]["info"]["chainID"])

    def _is_settled(self) -> bool:
        status = self.status()
        return (
            bool(status["up"]) and not status["owed"] and self.daemon.image(self.pause) is not None
        )

    def _options(self) -> str:
        return f"""\
{self.image_options}
[image.pinned_images]
sandbox = "{self.pause}"

[runtime]
snapshots_address = "{self.snapshots}"
[runtime.containerd]
address = "{self.directory / "containerd" / "containerd.sock"}"
"""


Start = Callable[..., Node]
