"""Which system calls a worker may make: a list of those it needs, and no others.

seccomp(2) with a classic BPF program. What is not on the list fails with ENOSYS, as on a kernel
that lacks it, so that libraries fall back; what breaks a rule of its own fails with EPERM.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from errno import ENOSYS, EPERM
from typing import NamedTuple, TypeAlias

from cri_imaged import libc
from cri_imaged.layers.worker.syscalls import CALLS

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_CLONE_THREAD = 0x10000
_PROT_EXEC = 4
_S_IFMT, _S_IFIFO = 0o170000, 0o010000
_FIOCLEX = 0x5451
_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 2, 3, 1030


class Rule(NamedTuple):
    """When a call is allowed: where an argument, masked, has one of these values."""

    argument: int
    mask: int
    values: tuple[int, ...]


_Program: TypeAlias = tuple[bytes, object]
"""A `struct sock_fprog`, and what has to live as long as it."""

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH_*, as `struct seccomp_data` has it; and which of `CALLS`'s numbers are theirs."""

_RULES = {
    "clone": Rule(0, _CLONE_THREAD, (_CLONE_THREAD,)),
    "mmap": Rule(2, _PROT_EXEC, (0,)),
    "mprotect": Rule(2, _PROT_EXEC, (0,)),
    "mknodat": Rule(2, _S_IFMT, (_S_IFIFO,)),
    "ioctl": Rule(1, 0xFFFFFFFF, (_FIOCLEX,)),
    "fcntl": Rule(1, 0xFFFFFFFF, (_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC)),
    "prlimit64": Rule(0, 0xFFFFFFFF, (0,)),
    "seccomp": Rule(1, 0xFFFFFFFF, (_ALL_THREADS,)),
}
"""Threads but no processes, no new code, fifos but no devices, no signals by way of F_SETOWN; and
to allow all threads still less."""

_FILES = frozenset(
    {
        *("openat", "mkdirat", "mknodat", "unlinkat", "linkat", "symlinkat", "readlinkat"),
        *("newfstatat", "statx", "getdents64", "fstatfs", "ftruncate", "fallocate", "umask"),
        *("fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "utimensat"),
        *("fsetxattr", "flistxattr", "fremovexattr"),
    }
)
"""What fills a directory. A process without it reads and writes what it holds open already."""
_LAYERS = frozenset({"recvmsg"})
"""By which a decoder is given its next layer."""


def supported() -> bool:
    """Whether this machine's calls are known here."""
    return os.uname().machine in _MACHINES and ctypes.sizeof(ctypes.c_void_p) == 8


def restrict(*, files: bool) -> bool:
    """Allow this process and its threads to come the listed calls alone, for ever. `files`: with
    those that fill a directory, and without what a decoder is given layers by. Needs no_new_privs.
    False where the kernel or machine cannot."""
    if not supported():
        return False
    header, _held = _filling() if files else _decoding()
    try:
        libc.checked(libc.lib.prctl(_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0), "seccomp")
    except OSError:
        return False
    return True


def end_threads() -> bool:
    """After `restrict`, let none of this process's threads begin another, for ever: no limit of a
    root's process counts them. False where `restrict` was."""
    if not supported():
        return False
    header, _held = _no_threads()
    number = CALLS["seccomp"][_MACHINES[os.uname().machine][1]] or 0
    try:
        libc.syscall(number, _SET_MODE_FILTER, _ALL_THREADS, header)
    except OSError:
        return False
    return True


def prepare() -> None:
    """Assemble the programs that the others install, for this process and those it forks."""
    if supported():
        for program in (_filling, _decoding, _no_threads):
            program()


@functools.cache
def _filling() -> _Program:
    return _header(assemble(os.uname().machine, CALLS.keys() - _LAYERS))


@functools.cache
def _decoding() -> _Program:
    return _header(assemble(os.uname().machine, CALLS.keys() - _FILES))


@functools.cache
def _no_threads() -> _Program:
    begin, column = _begin(os.uname().machine)
    clone = CALLS["clone"][column] or 0
    forbid = [*_jump(_EQUAL, clone, 0, 1), *_return(_ERROR | EPERM), *_return(_ALLOW)]
    return _header(b"".join([*begin, *forbid]))


def assemble(machine: str, allowed: Iterable[str]) -> bytes:
    """The BPF program that allows the calls of these names under their rules."""
    program, column = _begin(machine)
    for name in sorted(allowed):
        number = CALLS[name][column]
        if number is not None:
            check = _check(_RULES[name]) if name in _RULES else _return(_ALLOW)
            program += [*_jump(_EQUAL, number, 0, len(check)), *check]
    program += _return(_ERROR | ENOSYS)
    return b"".join(program)


def _begin(machine: str) -> tuple[list[bytes], int]:
    """How a program begins, with the call's number loaded; and which of `CALLS`'s that is."""
    architecture, column = _MACHINES[machine]
    check = [*_load(_ARCHITECTURE), *_jump(_EQUAL, architecture, 1, 0), *_return(_KILL)]
    return [*check, *_load(_NUMBER)], column


def _header(program: bytes) -> _Program:
    buffer = ctypes.create_string_buffer(program, len(program))
    return struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)), buffer


def _check(rule: Rule) -> Sequence[bytes]:
    """Ends with an answer, whatever the argument."""
    low = _ARGUMENTS + 8 * rule.argument  # of both machines, little-endian
    out = [*_load(low), *_operate(_AND, rule.mask)]
    for value in rule.values:
        out += [*_jump(_EQUAL, value, 0, 1), *_return(_ALLOW)]
    return [*out, *_return(_ERROR | EPERM)]


def _load(offset: int) -> list[bytes]:
    return _operate(_LOAD, offset)


def _return(value: int) -> list[bytes]:
    return _operate(_RETURN, value)


def _operate(code: int, value: int) -> list[bytes]:
    return [struct.pack("HBBI", code, 0, 0, value)]


def _jump(code: int, value: int, if_true: int, if_false: int) -> list[bytes]:
    return [struct.pack("HBBI", code, if_true, if_false, value)]
