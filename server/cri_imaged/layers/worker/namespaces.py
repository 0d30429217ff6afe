"""Namespaces of their own for the workers, and mounts of their targets without devices.

What is not permitted here is left out: containers and ordinary users have less.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cri_imaged import libc

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
APART = {"mount": _NEWNS, "uts": _NEWUTS, "ipc": _NEWIPC, "network": _NEWNET}
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19
_OPEN_TREE, _MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8


@contextlib.contextmanager
def children_apart() -> Iterator[None]:
    """Processes that this thread starts within are the first of a new PID namespace. At most one
    may be started; with it ends all that it started. Where that is not permitted, nothing."""
    try:
        ours = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        try:
            _unshare(_NEWPID)
        except OSError:
            yield
            return
        try:
            yield
        finally:
            libc.checked(libc.lib.setns(ours, _NEWPID), "setns")
    finally:
        os.close(ours)


def apart() -> list[str]:
    """Move this process, of one thread, into namespaces of its own. Returns which it got."""
    held = []
    for name, flag in APART.items():
        with contextlib.suppress(OSError):
            _unshare(flag)
            held.append(name)
    if "mount" in held:
        # Unmounted elsewhere, unmounted here: a disk must not stay in use for our sake. In a chroot
        # the root need be no mount.
        with contextlib.suppress(OSError):
            libc.checked(libc.lib.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "mount")
    return held


def own_user() -> None:
    """Become an ordinary user's own root: may chroot and have namespaces, owns nothing more. Needs
    a process of one thread.

    Raises:
        OSError: not permitted here. Nothing has changed.
    """
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_NEWUSER | _NEWNS)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


def without_devices(directory: int) -> int:
    """A descriptor of a mount of its own of the open `directory`, on which devices, set-user-ID
    bits and programs have no effect; of the same directory where that is not permitted. The caller
    closes both."""
    try:
        mount = libc.syscall(
            _OPEN_TREE, directory, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC
        )
    except OSError:
        return os.dup(directory)
    try:
        attributes = (_NOSUID | _NODEV | _NOEXEC).to_bytes(8, "little") + bytes(24)
        libc.syscall(_MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    except OSError:
        return os.dup(directory)
    finally:
        os.close(mount)


def _unshare(flags: int) -> None:
    libc.checked(libc.lib.unshare(flags), "unshare")
