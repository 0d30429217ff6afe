"""Confinement of a layer's worker: capabilities, chroot, Landlock, seccomp, limits, and the end of
all imports. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator

from cri_imaged import libc
from cri_imaged.layers.worker import landlock, namespaces, seccomp
from cri_imaged.limits import Limits

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID = 0, 1, 3, 4
_SETPCAP, _SYS_CHROOT, _SETFCAP = 8, 18, 31
_KEPT = frozenset({_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _SETFCAP})
_NEEDED = frozenset({_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _SYS_CHROOT})
_CAPABILITIES = range(64)
_bounding = set(_CAPABILITIES)
"""What the bounding set of this process, or of the one that forked it, may still have."""
_IMPORTS = (sys.meta_path[:], sys.path_hooks[:], sys.path[:])
_OPEN_FILES = 512
"""Of a worker, which needs fewer than half: the kernel's memory for them is in no other limit."""

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
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def keep_descriptors(kept: Iterable[int]) -> None:
    """Close every descriptor but `kept`. The standard ones lead nowhere from now on: they were the
    node's /dev/null, whose mode and owner root could change by them, and the daemon's log."""
    unread, nowhere = os.pipe()
    os.close(unread)
    for standard in range(3):
        os.dup2(nowhere, standard, inheritable=False)
    last = 2
    for fd in sorted(kept):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1] & 0x7FFFFFFF)


def isolate(*, privileged: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give a process that will fork workers the namespaces that they share.

    Returns:
        What confines workers here, and what cannot.
    """
    # In a user namespace of one user nobody can be given files.
    if not privileged:
        with contextlib.suppress(OSError):
            _own_user()
    _drop_from_bounding(_KEPT)
    held = {
        **{f"{name} namespace": False for name in namespaces.APART},
        **{f"{name} namespace": True for name in namespaces.apart()},
        "pid namespace": os.getpid() == 1,
        "chroot": bool(_capabilities() >> _SYS_CHROOT & 1),
        "landlock": landlock.supported(),
        "seccomp": seccomp.supported(),
    }
    seccomp.prepare()
    means = tuple(name for name, yes in held.items() if yes)
    return means, tuple(name for name, yes in held.items() if not yes)


def confine(root_fd: int, limits: Limits, *, chroot: bool) -> None:
    """Lock this process in: it can fill the directory `root_fd`, and nothing else. With `chroot`
    (see `privileged`) the capabilities to set owners, modes and file capabilities remain; without,
    none does, and it sees other files only where neither a user namespace nor Landlock can be had.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0)
    if not _capabilities() >> _SYS_CHROOT & 1:
        with contextlib.suppress(OSError):
            _own_user()
    try:
        os.fchdir(root_fd)
        os.chroot(".")
        os.chdir("/")
    except PermissionError:
        if chroot:
            raise
    _drop_capabilities(_KEPT if chroot else frozenset())
    _seal_off(root_fd, limits)


def confine_decoder(limits: Limits) -> None:
    """Lock this process in: it can read and write what it holds open, and nothing else."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _drop_capabilities(frozenset())
    _seal_off(None, limits)


def _seal_off(directory: int | None, limits: Limits) -> None:
    """What holds for every process that reads a stranger's bytes."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    libc.prctl(_PR_SET_DUMPABLE, 0)
    memory = memory_limit(limits)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    files = min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    end_imports()
    landlock.restrict(directory)
    seccomp.restrict(files=directory is not None)


def memory_limit(limits: Limits) -> int:
    """Bytes of address space that a worker gets: `worker_memory_bytes`, or less where this process
    may itself have no more."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    ours = limits.worker_memory_bytes
    return ours if hard == resource.RLIM_INFINITY else min(ours, hard)


def end_imports() -> None:
    """From now on, importing what is not loaded yet raises ImportError."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    sys.path_importer_cache.clear()


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Importing works again while the context lasts: what few layers need is loaded by their own
    process, before it is shut in."""
    sys.meta_path[:], sys.path_hooks[:], sys.path[:] = _IMPORTS
    try:
        yield
    finally:
        end_imports()


def _drop_capabilities(kept: frozenset[int]) -> None:
    _drop_from_bounding(kept)
    mask = sum(1 << capability for capability in kept) & _capabilities()
    sets = (_Sets * 2)()
    for half in range(2):
        sets[half].effective = sets[half].permitted = mask >> 32 * half & 0xFFFFFFFF
    libc.checked(libc.lib.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets))


def _own_user() -> None:
    namespaces.own_user()
    _bounding.update(_CAPABILITIES)  # all are its own there


def _drop_from_bounding(kept: frozenset[int]) -> None:
    if _capabilities() >> _SETPCAP & 1:
        for capability in _bounding - kept:
            libc.lib.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        _bounding.intersection_update(kept)


def _capabilities() -> int:
    sets = (_Sets * 2)()
    libc.checked(libc.lib.capget(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets))
    return int(sets[0].effective) | int(sets[1].effective) << 32
