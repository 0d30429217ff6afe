"""Pods in a user namespace of their own (hostUsers: false) run on layers of ours as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.conftest import Scratch
from tests.real.runtimes.conftest import Pushed
from tests.support.node import Node
from tests.support.require import require_real

pytestmark = pytest.mark.real

HOST_ROOT = 100_000
MAP = [{"host_id": HOST_ROOT, "container_id": 0, "length": 65536}]
MAPPED = {
    "security_context": {
        "namespace_options": {"userns_options": {"mode": 0, "uids": MAP, "gids": MAP}}
    }
}
SCRIPT = (
    "stat -c '%u:%g %a' / /srv /srv/text; echo new >/srv/new; stat -c '%u:%g' /srv/new;"
    " cat /srv/text /proc/self/uid_map"
)


def test_a_mapped_container_sees_roots_files_as_its_own(
    scratch: Scratch, pause: str, app: Pushed
) -> None:
    release = tuple(map(int, Path("/proc/sys/kernel/osrelease").read_text().split(".")[:2]))
    require_real(release >= (5, 19), "this kernel's overlay cannot map IDs (Linux 5.19)")
    with Node(scratch("node"), pause, networked=True) as node:
        image_id = node.daemon.pull(app.reference)
        held = _owners(node.daemon.root)
        pod = node.pods.sandbox("mapped", linux=MAPPED)
        container = node.pods.create(pod, "mapped", image_id, "/bin/sh", "-c", SCRIPT, linux=MAPPED)
        node.containerd.crictl("start", container)
        *seen, ids = node.pods.output(container).splitlines()
        assert seen == ["0:0 755", "0:0 750", "0:0 644", "0:0", "hello"]
        assert ids.split() == ["0", str(HOST_ROOT), "65536"]
        (new,) = node.daemon.root.glob("snapshots/overlay/r*/fs/srv/new")
        assert new.stat().st_uid == HOST_ROOT, "on disk it is the mapped user's"
        assert _owners(node.daemon.root) == held, "no layer was copied or changed"


def _owners(root: Path) -> dict[Path, tuple[int, int]]:
    """Of all that our layers hold."""
    layers = [each for each in (root / "snapshots/overlay").iterdir() if each.name.isdigit()]
    return {
        path: (path.lstat().st_uid, path.lstat().st_gid)
        for each in layers
        for path in each.rglob("*")
    }
