"""Running a program of a mounted image in a container, by crun."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import uuid
from pathlib import Path

from tests.support.require import require_real


def run_in_container(bundle: Path, root: Path, *args: str) -> str:
    """Run `args` with `root` as the read-only root file system; returns standard output.

    `bundle` is a directory for the runtime's configuration. Namespaces of its own, no cgroup.
    """
    require_real(shutil.which("crun") is not None, "crun is not installed")
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(_spec(root, args)))
    run = run_bundle(bundle)
    assert run.returncode == 0, f"crun: {run.stderr or run.stdout}"
    return run.stdout


def run_bundle(bundle: Path) -> subprocess.CompletedProcess[str]:
    """Run the container of a bundle to its end, in no cgroup."""
    name = f"cri-imaged-test-{uuid.uuid4().hex[:12]}"
    # crun refuses machines with cgroups v1 and v2 side by side, though it needs neither here.
    hide_cgroups = "mount -t tmpfs none /sys/fs/cgroup && exec"
    crun = f"crun --cgroup-manager=disabled run --bundle={shlex.quote(str(bundle))} {name}"
    return subprocess.run(
        ["unshare", "--mount", "--propagation=slave", "sh", "-c", f"{hide_cgroups} {crun}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _spec(root: Path, args: tuple[str, ...]) -> dict[str, object]:
    return {
        "ociVersion": "1.0.0",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]},
    }
