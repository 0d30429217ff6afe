"""Loop devices: a file as a block device (loop(4))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_CONTROL = "/dev/loop-control"
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_FLAGS_AT = 52
"""Of `lo_flags` in struct loop_info64."""
_INFO_SIZE = 232
_CONFIG = struct.Struct(f"<II{_INFO_SIZE}s64x")
_TRIES = 64
"""Others take devices, too: each free one may be gone when it is asked for."""


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """The path of a device that shows `file`, read-only. It goes with its last mount, or with this
    context where there is none. Direct I/O where the file system can: else memory would hold all
    of it twice.

    Raises:
        OSError: there is no device to be had.
    """
    backing = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, path = _configured(backing)
        try:
            yield path
        finally:
            os.close(device)
    finally:
        os.close(backing)


def _configured(backing: int) -> tuple[int, str]:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _configure(device, backing)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "every loop device is taken as soon as it is free")


def _configure(device: int, backing: int) -> None:
    for flags in (_READ_ONLY | _AUTOCLEAR | _DIRECT_IO, _READ_ONLY | _AUTOCLEAR):
        info = bytearray(_INFO_SIZE)
        struct.pack_into("<I", info, _FLAGS_AT, flags)
        try:
            fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(backing, 0, bytes(info)))
        except OSError as error:
            if error.errno != errno.EINVAL or not flags & _DIRECT_IO:
                raise
        else:
            return
