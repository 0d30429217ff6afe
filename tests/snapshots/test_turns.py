"""Who gets on beside seals that are as long as the limits let them be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cri_imaged.oci.digest import Digest
from cri_imaged.snapshots.tasks import Check, Threads
from tests.snapshots.conftest import require_snapshotter
from tests.snapshots.model import Layer, Node
from tests.snapshots.workbench import Bench, applied
from tests.support.unprivileged import CHECKOUT, as_nobody


class Long:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.begun = 0
        self.closed = 0

    def work(self, check: Check) -> None:
        self.begun += 1
        while not self.end.is_set():
            time.sleep(0.001)
            check(self._close)

    def _close(self) -> None:
        self.closed += 1


@contextlib.asynccontextmanager
async def beside(threads: Threads, count: int, *, large: bool = False) -> AsyncIterator[Long]:
    long = Long()
    tasks = [asyncio.create_task(threads.run("long", long.work, large=large)) for _ in range(count)]
    try:
        yield long
    finally:
        long.end.set()
        await asyncio.gather(*tasks)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # it changes in threads
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("large", [False, True])
async def test_what_is_short_waits_for_nothing_that_is_long(large: bool) -> None:
    threads = Threads()
    async with beside(threads, 20, large=large) as long, asyncio.timeout(20):
        await until(lambda: long.begun >= 4)
        assert await threads.run("short", lambda check: "done") == "done"


async def test_all_that_is_long_gets_on_and_closes_what_it_can_meanwhile() -> None:
    threads = Threads()
    async with beside(threads, 12) as long:
        await until(lambda: long.begun == 12 and long.closed >= 12)


async def test_of_what_is_large_few_are_begun() -> None:
    threads = Threads()
    async with beside(threads, 12, large=True) as long, beside(threads, 12) as others:
        await until(lambda: others.begun == 12 and others.closed > 24)
        assert long.begun == 4


async def test_who_gives_up_ends_though_it_is_not_its_turn() -> None:
    threads = Threads()
    async with beside(threads, 8), asyncio.timeout(20):
        task = asyncio.create_task(threads.run("given up", Long().work))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class Impatient:
    """A `Check` that has the work let go each time, and counts what is open then."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def __call__(self, let_go: Callable[[], object] = lambda: None) -> None:
        let_go()
        self.fds.append(len(os.listdir("/proc/self/fd")))

    def grew(self, size: int, inodes: int) -> None:
        """Of no interest."""


async def test_a_seal_that_waits_holds_nothing_open(bench: Bench) -> None:
    """What a layer lists is done right though all is closed before each step."""
    if bench.snapshotter.name == "erofs":
        pytest.skip("its layers are no directories")
    files = {b"%d/%d/f" % (a, b): Node("file") for a in range(5) for b in range(5)}
    low = await bench.add(Layer(files))
    place = await bench.prepare("top", low)
    for a in range(5):
        os.makedirs(place / f"{a}", exist_ok=True)
        os.utime(place / f"{a}", (7, 7))
    result = applied(
        whiteouts=[b"%d/%d/f" % (a, a) for a in range(5)],
        links=[(b"%d/link" % a, b"%d/0/f" % (4 - a)) for a in range(5)],
    )
    backend, parents = bench.snapshotter._backend, [bench.directory / "1"]
    check = Impatient()
    await asyncio.to_thread(backend.seal, place.parent, parents, result, check)
    fds = check.fds
    assert max(fds) <= min(fds) + 10
    for a in range(5):
        assert (place / f"{a}/link").exists()
        if backend.name == "overlay":
            assert stat.S_ISCHR((place / f"{a}/{a}/f").stat().st_mode)
        else:
            assert not (place / f"{a}/{a}/f").exists()
        assert (place / f"{a}").stat().st_mtime == 7


async def test_whiteouts_of_one_directory_are_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_snapshotter("overlay")
    async with Bench.open(tmp_path, "overlay") as bench:
        low = await bench.stack([Layer({b"a/%d" % number: Node("file")}) for number in range(20)])
        place = await bench.prepare("top", low)
        (place / "a").mkdir()
        names = [b"a/gone-%d" % number for number in range(1000)]
        calls = 0
        real = os.stat

        def counted(*args: object, **kwargs: object) -> os.stat_result:
            nonlocal calls
            calls += 1
            return real(*args, **kwargs)  # type: ignore[call-overload]

        monkeypatch.setattr(os, "stat", counted)
        await bench.commit(Digest.of(b"top"), "top", low, applied(whiteouts=names))
        assert calls < len(names)


READ_TWICE = """
import os, sys
from cri_imaged.snapshots.opened import OpenDirectory
from cri_imaged.snapshots.widening import mode_of
os.makedirs("closed/in")
os.chmod("closed", 0)
first = OpenDirectory.open("closed")
second = OpenDirectory.open("closed", need=0o700)
assert first.mode == second.mode == 0
first.close()
OpenDirectory.open("in", second.fd).close()
os.mkdir("more", dir_fd=second.fd)
assert os.stat("closed").st_mode & 0o777 == 0o700
second.close()
assert os.stat("closed").st_mode & 0o777 == 0
"""


def test_two_may_read_what_its_mode_forbids(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    command = as_nobody([sys.executable, "-B", "-c", READ_TWICE], tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/server"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
