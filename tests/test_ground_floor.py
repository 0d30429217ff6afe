"""The small modules that every room stands on."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys

import pytest

from cri_imaged import libc
from cri_imaged.errors import (
    Attempt,
    Category,
    CorruptContentError,
    NoSpaceError,
    RegistryError,
)
from cri_imaged.full_disk import told_as_no_space
from cri_imaged.oci import layer_path
from cri_imaged.shielding import to_the_end


class Work:
    """Runs until it is let go, and tells what happened to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.go = asyncio.Event()
        self.happened: list[str] = []

    async def run(self) -> str:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.happened.append("ran")
        return "result"

    async def undo(self) -> None:
        await asyncio.sleep(0)
        self.happened.append("undone")


async def test_shielded_work_gives_its_result() -> None:
    work = Work()
    work.go.set()
    assert await to_the_end(work.run(), undo=work.undo) == "result"
    assert work.happened == ["ran"]


async def test_shielded_work_raises_its_own_error() -> None:
    work = Work(OSError("its own"))
    work.go.set()
    with pytest.raises(OSError, match="its own"):
        await to_the_end(work.run())


async def test_work_of_a_cancelled_caller_ends_first_and_is_undone() -> None:
    work = Work()
    interrupted = asyncio.Event()
    caller = asyncio.create_task(to_the_end(work.run(), undo=work.undo, interrupt=interrupted.set))
    await asyncio.sleep(0)
    caller.cancel()
    await interrupted.wait()
    caller.cancel()  # impatience changes nothing
    await asyncio.sleep(0)
    assert not caller.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.happened == ["ran", "undone"]


async def test_failed_work_of_a_cancelled_caller_is_not_undone() -> None:
    work = Work(OSError("nobody waits for this"))
    caller = asyncio.create_task(to_the_end(work.run(), undo=work.undo))
    await asyncio.sleep(0)
    caller.cancel()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.happened == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_no_space(number: int) -> None:
    with pytest.raises(NoSpaceError, match=r"a blob: .*(space|quota)"), told_as_no_space("a blob"):
        raise OSError(number, os.strerror(number))


def test_what_else_the_disk_says_stays_what_it_is() -> None:
    with pytest.raises(PermissionError), told_as_no_space("a blob"):
        raise PermissionError(errno.EACCES, "denied")


def test_a_system_call_that_fails_raises_its_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        libc.syncfs(-1)
    assert caught.value.errno == errno.EBADF


def test_an_error_gathers_context_and_stays_what_it_was() -> None:
    inner = RegistryError(
        Category.UNAUTHENTICATED,
        "blob",
        (Attempt("r.example", "https://r.example/v2/", "401", 0.5, 401),),
    )
    outer = inner.within("layer 1").within("image a")
    assert isinstance(outer, RegistryError)
    assert str(outer) == "image a: layer 1: blob: r.example: 401 (0.5 s)"
    assert (outer.category, outer.attempts) == (inner.category, inner.attempts)
    assert str(inner).startswith("blob: ")


@pytest.mark.parametrize("path", [b"/etc", b"a//b", b"a/.", b"../a", b"a/../b", b"a\0b", b"a/"])
def test_paths_that_a_worker_may_not_report(path: bytes) -> None:
    with pytest.raises(CorruptContentError, match="does not stay"):
        layer_path.components(path)


def test_a_layer_cannot_hide_its_own_root() -> None:
    assert layer_path.components(b"") == ()
    with pytest.raises(CorruptContentError, match="own root"):
        layer_path.check_name(b"")


def test_a_long_path_is_cut_where_it_is_shown() -> None:
    assert layer_path.show(b"a\n\xff") == r"'a\n\\xff'"
    assert len(layer_path.show(b"x" * 5000)) < 300


HEAPS = """
import threading
from pathlib import Path
from cri_imaged import libc
libc.keep_heaps_small()
all_run = threading.Barrier(9)
def run():
    held = [bytearray(2000) for _ in range(100)]
    all_run.wait()
    all_run.wait()
threading.stack_size(256 << 10)
threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads:
    thread.start()
all_run.wait()
print(Path("/proc/self/statm").read_text().split()[0])
all_run.wait()
"""


def test_threads_reserve_little_address_space() -> None:
    """So that `ulimit -v` may be what it usually is."""
    done = subprocess.run(
        [sys.executable, "-c", HEAPS], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) * resource.getpagesize() < 256 << 20


LARGE = """
from pathlib import Path
from cri_imaged import libc
libc.keep_heaps_small()
del (first := [bytes(24 << 20)])[:]
held = [bytes(20 << 20) for _ in range(4)]
small = bytes(100_000)
del held
print(Path("/proc/self/statm").read_text().split()[1])
"""


def test_what_is_large_goes_back_to_the_kernel() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) * resource.getpagesize() < 60 << 20


def test_who_verifies_and_decrypts_nothing_loads_nothing_for_it() -> None:
    program = (
        "import sys, cri_imaged.daemon, cri_imaged.layers.worker.zygote as _;"
        "print([name for name in sys.modules if name in ('cryptography', 'joserfc')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr
