"""From an image's config to a runtime's `config.json` (OCI runtime specification 1.0.2; image
specification, conversion.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cri_imaged.errors import CorruptContentError, InvalidRequestError

SPEC_VERSION = "1.0.2"
_DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CAPABILITIES = [
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID"),
    *("CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
]
"""What Docker and containerd give a container."""
_MASKED = [
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@dataclass(frozen=True, slots=True)
class ProcessUser:
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def runtime_spec(
    config: Mapping[str, Any],
    user: ProcessUser,
    command: Sequence[str] = (),
    *,
    root: str,
    terminal: bool = False,
) -> dict[str, Any]:
    """`config.json` for the image config `config`, whose root file system is mounted on `root`.
    `command` stands instead of the image's Cmd. The container has a network of its own, with
    nothing but the loopback device.

    Raises:
        InvalidRequestError: neither the image nor the caller says what to run.
        CorruptContentError: the config is malformed.
    """
    run = config.get("config") or {}
    if not isinstance(run, Mapping):
        raise CorruptContentError("the image's config is malformed: config is no object")
    arguments = [*_texts(run, "Entrypoint"), *(command or _texts(run, "Cmd"))]
    if not arguments:
        raise InvalidRequestError("the image says nothing to run: give a command")
    environment = _texts(run, "Env")
    if not any(each.startswith("PATH=") for each in environment):
        environment.insert(0, _DEFAULT_PATH)
    if terminal:
        environment.append("TERM=xterm")
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": terminal,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": arguments,
            "env": environment,
            "cwd": str(run.get("WorkingDir") or "/"),
            "capabilities": dict.fromkeys(
                # As containerd: who is not root has none at work, and none to take up.
                ("bounding", "effective", "permitted") if user.uid == 0 else ("bounding",),
                _CAPABILITIES,
            ),
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": False},
        "hostname": "container",
        "mounts": _mounts(),
        "linux": {
            "namespaces": [{"type": each} for each in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }


def _texts(run: Mapping[str, Any], key: str) -> list[str]:
    values = run.get(key) or []
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise CorruptContentError(f"the image's config is malformed: {key} is no list of texts")
    return list(values)


def _mounts() -> list[dict[str, Any]]:
    plain = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",  # noqa: S108  # in the container
            "type": "tmpfs",
            "source": "shm",
            "options": [*plain, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*plain, "ro"]},
    ]
