"""Device nodes that a layer lists, made by the daemon: a worker may not."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from cri_imaged.ports import Device


def make_device(directory: int, name: bytes, device: Device) -> bool:
    """Make the node `name` in an open directory, with owner, mode and time. False where that is
    not permitted here (in a user namespace, or by a device cgroup).

    Raises:
        FileExistsError: something is at `name`.
    """
    try:
        os.mknod(name, device.mode, os.makedev(device.major, device.minor), dir_fd=directory)
    except PermissionError:
        return False
    with contextlib.suppress(PermissionError):
        os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)
    os.chmod(name, stat.S_IMODE(device.mode), dir_fd=directory)
    try:
        os.utime(name, ns=(device.mtime, device.mtime), dir_fd=directory, follow_symlinks=False)
    except OSError as error:  # a time that this file system cannot hold
        if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
            raise
    return True
