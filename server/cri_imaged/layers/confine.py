"""Confinement of a layer worker: capabilities, chroot, limits, and the end of all imports.

Linux only, by `ctypes` on the C library, which the standard library does not wrap: prctl(2),
capget(2), capset(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable

from cri_imaged.limits import Limits

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID = 0, 1, 3, 4
_SETPCAP, _SYS_CHROOT, _MKNOD, _SETFCAP = 8, 18, 27, 31
_KEPT = frozenset({_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _MKNOD, _SETFCAP})
_NEEDED = frozenset({_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _SYS_CHROOT})
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)
with contextlib.suppress(OSError):
    # glibc loads it when a thread is cancelled; after chroot that would be the image's.
    ctypes.CDLL("libgcc_s.so.1")


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def privileged() -> bool:
    """Whether this process has what a confined, exact extraction needs."""
    effective = _capabilities()
    return all(effective >> capability & 1 for capability in _NEEDED)


def die_with_parent(parent: int) -> None:
    """Be killed when the process `parent`, which forked this one, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def keep_descriptors(kept: Iterable[int]) -> None:
    """Close every descriptor but the standard ones and `kept`."""
    last = 2
    for fd in sorted(kept):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1] & 0x7FFFFFFF)


def confine(root_fd: int, limits: Limits, *, chroot: bool) -> None:
    """Lock this process in. With `chroot`, the directory `root_fd` becomes all it can see, and
    only the capabilities to set owners, modes, devices and file capabilities remain."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0)
    if chroot:
        os.fchdir(root_fd)
        os.chroot(".")
        os.chdir("/")
        _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    memory = limits.worker_memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    end_imports()


def end_imports() -> None:
    """From now on, importing what is not loaded yet raises ImportError."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    sys.path_importer_cache.clear()


def _drop_capabilities() -> None:
    effective = _capabilities()
    if effective >> _SETPCAP & 1:
        for capability in range(_LAST_CAPABILITY + 1):
            if capability not in _KEPT:
                _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    kept = sum(1 << capability for capability in _KEPT) & effective
    sets = (_Sets * 2)()
    for half in range(2):
        sets[half].effective = sets[half].permitted = kept >> 32 * half & 0xFFFFFFFF
    _checked(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets))


def _capabilities() -> int:
    sets = (_Sets * 2)()
    _checked(_libc.capget(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets))
    return int(sets[0].effective) | int(sets[1].effective) << 32


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
