"""Modes that forbid an ordinary user to read what is their own, widened for a while."""

from __future__ import annotations

import os
import stat
import threading
from typing import NamedTuple, TypeAlias

Inode: TypeAlias = tuple[int, int]
"""Device and number."""


class _Widened(NamedTuple):
    mode: int
    """That it has while nobody needs more."""
    users: int


_lock = threading.Lock()
_widened: dict[Inode, _Widened] = {}


def widen(handle: int, need: int) -> Inode | None:
    """Let the owner's bits `need` be in the mode of an open file of this user (opened by O_PATH),
    until `narrow`. Several may do so at a time. None where they are there anyway, or it is not this
    user's."""
    with _lock:
        info = os.fstat(handle)
        inode = info.st_dev, info.st_ino
        now = stat.S_IMODE(info.st_mode)
        known = _widened.get(inode) or _Widened(now, 0)
        if known.mode & need == need or info.st_uid != os.geteuid():
            return None
        os.chmod(f"/proc/self/fd/{handle}", now | need)
        _widened[inode] = _Widened(known.mode, known.users + 1)
        return inode


def mode_of(fd: int) -> int:
    """The permission bits of an open file as they are while nobody needs more."""
    info = os.fstat(fd)
    with _lock:
        known = _widened.get((info.st_dev, info.st_ino))
        return stat.S_IMODE(info.st_mode) if known is None else known.mode


def intend(inode: Inode, mode: int) -> None:
    """Let a file that was widened have another mode once nobody needs more."""
    with _lock:
        _widened[inode] = _Widened(mode, _widened[inode].users)


def narrow(inode: Inode, fd: int) -> None:
    """Undo one `widen`. The last one gives the file (`fd` or /proc/self/fd) its own mode."""
    with _lock:
        mode, users = _widened.pop(inode)
        if users > 1:
            _widened[inode] = _Widened(mode, users - 1)
        else:
            os.chmod(f"/proc/self/fd/{fd}", mode)
