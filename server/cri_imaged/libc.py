"""System calls that the standard library does not wrap, by `ctypes` on the C library."""

from __future__ import annotations

import contextlib
import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 2 << 20
"""Bytes. Larger than the buffers that data streams through, which are used again and again."""

lib = ctypes.CDLL(None, use_errno=True)
"""The C library; each call's result belongs into `checked`."""


def checked(result: int, what: str = "") -> int:
    """`result` of a call through `lib`.

    Raises:
        OSError: it is negative; the error is errno's, and its text names `what`.
    """
    if result < 0:
        number = ctypes.get_errno()
        text = os.strerror(number)
        raise OSError(number, f"{what}: {text}" if what else text)
    return result


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """syscall(2). Raises `OSError`."""
    # It is variadic: every integer must be as wide as a register.
    wide = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    return checked(lib.syscall(ctypes.c_long(number), *wide))


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument. Raises `OSError`."""
    checked(lib.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def share_heaps(count: int) -> None:
    """Let all threads of this process allocate from so many heaps. By itself glibc reserves 64 MiB
    of address space for nearly each thread, which limits on it (ulimit -v) count."""
    with contextlib.suppress(AttributeError):  # another C library
        lib.mallopt(_M_ARENA_MAX, count)


def keep_freed(size: int) -> None:
    """Let up to so many freed bytes wait for their next use. By itself glibc gives a buffer of a
    megabyte back to the kernel when it is freed, and each page of the next one costs a fault."""
    with contextlib.suppress(AttributeError):  # another C library
        lib.mallopt(_M_MMAP_THRESHOLD, size)
        lib.mallopt(_M_TRIM_THRESHOLD, size)


def keep_heaps_small() -> None:
    """Let all threads of this process share two heaps, and give what is large back to the kernel
    when it is freed. By itself glibc, once a block of up to 32 MiB was freed, keeps all such for
    later."""
    share_heaps(2)
    keep_freed(_LARGE)


def syncfs(fd: int) -> None:
    """Write back the file system of `fd` (syncfs(2)). Raises `OSError`."""
    checked(lib.syncfs(fd))
