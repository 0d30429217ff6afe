"""The processes of one layer: which there are, and what if one stops, dies or starves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError, WorkerDiedError
from cri_imaged.layers.worker import handle, heart, protocol, seccomp
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.layers.worker.ring import (
    ALIVE,
    BrokenRingError,
    DecoderFailedError,
    Flow,
    Ring,
    drain,
    fail,
    fill,
)
from cri_imaged.limits import Limits
from cri_imaged.ports import DirectoryTarget
from tests.layers.sources import Growing, Whole
from tests.layers.test_pool import (
    GZIP,
    LAYER,
    PLAIN,
    check,
    descendants,
    into,
    parent_of,
    pool,
    until,
    workers,
)
from tests.support import tarballs as t
from tests.support.process import open_files
from tests.support.require import require_real
from tests.support.unprivileged import CHECKOUT

__all__ = ["into", "pool"]  # fixtures

Begun = tuple[Growing, "asyncio.Task[object]"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was stopped is given up soon."""
    monkeypatch.setattr(handle, "STOPPED_SECONDS", 3.0)
    monkeypatch.setattr(handle, "_OBEY_SECONDS", 2.0)


async def begin(pool: WorkerPool, into: DirectoryTarget, folder: Path, count: int) -> Begun:
    """A gzip layer that waits for its second half, when its processes run."""
    source = Growing(folder)
    task = asyncio.create_task(pool.apply(source, GZIP, into))
    await source.write(t.gz(LAYER)[:2000])
    await until(lambda: len(workers()) == count)
    return source, task


async def finish(begun: Begun, into: DirectoryTarget) -> None:
    source, task = begun
    await source.write(t.gz(LAYER)[2000:])
    await source.complete()
    check(await task, LAYER, into.directory)  # type: ignore[arg-type]
    assert not workers()


def named(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


async def test_native_decoders_have_a_process_of_their_own(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    begun = await begin(pool, into, tmp_path, 2)
    await finish(begun, into)
    plain = Growing(tmp_path)
    other = DirectoryTarget(tmp_path / "other")
    other.directory.mkdir()
    task = asyncio.create_task(pool.apply(plain, PLAIN, other))
    await plain.write(LAYER[:30_000])
    await until(lambda: (other.directory / "d/5").exists())
    assert len(workers()) == 1
    task.cancel()


async def test_roots_workers_are_in_namespaces_of_their_own(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    require_real(os.geteuid() == 0, "only root is sure to get them")
    begun = await begin(pool, into, tmp_path, 2)
    for pid in workers():
        for kind in ("mnt", "uts", "ipc", "net", "pid"):
            assert named(pid, kind) != named(os.getpid(), kind)
    await finish(begun, into)


async def test_none_of_them_begins_more_threads_or_holds_what_is_not_the_layers(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    """The node's /dev/null could be changed through it, and the daemon's log."""
    require_real(seccomp.supported(), "no system call numbers for this machine")
    begun = await begin(pool, into, tmp_path, 2)
    for pid in workers():
        status = Path(f"/proc/{pid}/status")
        await until(lambda status=status: "Seccomp_filters:\t2" in status.read_text())
        for number in range(3):
            assert os.readlink(f"/proc/{pid}/fd/{number}").startswith("pipe:")
    await finish(begun, into)


@pytest.mark.parametrize("which", [0, 1])
async def test_one_of_them_is_killed(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path, which: int
) -> None:
    begun = await begin(pool, into, tmp_path, 2)
    os.kill(sorted(workers())[which], signal.SIGKILL)
    await finish(begun, into)


@pytest.mark.usefixtures("hasty")
async def test_the_writer_is_stopped(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    begun = await begin(pool, into, tmp_path, 2)
    os.kill(min(workers()), signal.SIGSTOP)
    await finish(begun, into)


@pytest.mark.usefixtures("hasty")
async def test_the_zygote_is_stopped(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    begun = await begin(pool, into, tmp_path, 2)
    zygote = parent_of(workers()[0])
    os.kill(zygote, signal.SIGSTOP)
    begun[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun[1]
    assert zygote not in descendants()
    (tmp_path / "blob").write_bytes(LAYER)
    into.directory.rename(tmp_path / "given-up")
    into.directory.mkdir()
    check(await pool.apply(Whole(tmp_path / "blob"), PLAIN, into), LAYER, into.directory)


def is_zygote(pid: int) -> bool:
    """Whether it is a child of this process that runs the zygote's program."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"layers.worker.zygote" in command and parent_of(pid) == os.getpid()


@pytest.mark.usefixtures("hasty")
async def test_a_pool_ends_though_its_zygote_is_stopped() -> None:
    async with WorkerPool(Limits(), max_workers=1) as pool:
        await pool.confinement()
        zygote = next(pid for pid in descendants() if is_zygote(pid))
        os.kill(zygote, signal.SIGSTOP)
    assert zygote not in descendants()


async def test_nobody_waits_for_a_zygote_that_ended_before_it_had_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handle, "_ZYGOTE", "cri_imaged.there.is.none")
    async with WorkerPool(Limits(), max_workers=1) as pool:
        with pytest.raises(WorkerDiedError, match="ended before it was up"):
            await pool.confinement()


async def test_a_decoders_error_is_told(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_bytes(t.gz(LAYER)[:-100])
    with pytest.raises(CorruptContentError, match="gzip stream is truncated after"):
        await pool.apply(Whole(tmp_path / "blob"), GZIP, into)


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """At most so many more open files than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def starve(folder: Path) -> None:
    """Apply a layer with ever more descriptors until there are enough."""
    into = DirectoryTarget(folder / "root")
    async with WorkerPool(Limits(), max_workers=1) as pool:
        await pool.confinement()
        before = open_files()
        for more in itertools.count():
            try:
                with few_descriptors(more):
                    applied = await pool.apply(Whole(folder / "blob"), PLAIN, into)
            except (OSError, WorkerDiedError):
                continue
            break
        assert more > 4
        await until(lambda: open_files() == before)  # a report's file is closed in a thread
        check(applied, LAYER, into.directory)


def test_no_descriptor_leaks_where_there_are_too_few(tmp_path: Path) -> None:
    """In a process of its own, where nothing else opens or closes any."""
    script = """
import asyncio, sys
from pathlib import Path
from tests.layers.test_processes import starve
asyncio.run(starve(Path(sys.argv[1])))
"""
    (tmp_path / "blob").write_bytes(LAYER)
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_smaller_limit_on_address_space_is_taken(tmp_path: Path) -> None:
    script = """
import asyncio, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import Limits
from cri_imaged.ports import DirectoryTarget
from tests.layers.sources import Whole
from tests.layers.test_pool import GZIP

async def main(folder):
    async with WorkerPool(Limits(), max_workers=1) as pool:
        await pool.apply(Whole(folder / "blob"), GZIP, DirectoryTarget(folder / "root"))

asyncio.run(main(Path(sys.argv[1])))
"""
    (tmp_path / "blob").write_bytes(t.gz(LAYER))
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def ring_of(work: Callable[[Ring], None]) -> list[bytes]:
    """What the ring's other end gives when `work` was done at this one."""
    ring = Ring.make()
    pid = os.fork()
    if not pid:
        os.close(ring.filled_in)
        os.close(ring.freed_out)
        work(ring)
        os._exit(0)
    os.close(ring.filled_out)
    os.close(ring.freed_in)
    try:
        return list(drain(ring, 5.0, Flow()))
    finally:
        os.waitpid(pid, 0)
        for fd in ring.writers():
            os.close(fd)


def test_a_ring_gives_what_was_put_in() -> None:
    chunks = [bytes([number]) * size for number, size in enumerate([1, 5000, 3 << 20, 1 << 20, 7])]
    assert b"".join(ring_of(lambda ring: fill(ring, chunks))) == b"".join(chunks)
    assert ring_of(lambda ring: fill(ring, [])) == []


def test_a_ring_tells_failures_and_sudden_ends() -> None:
    with pytest.raises(DecoderFailedError) as caught:
        ring_of(lambda ring: fail(ring, b"why"))
    assert caught.value.failure == b"why"
    with pytest.raises(BrokenRingError):
        ring_of(lambda ring: None)


@pytest.mark.parametrize("message", [(1 << 20) + 1, 1 << 31 | 1 << 20, (1 << 30) + 1])
def test_a_ring_believes_no_impossible_length(message: int) -> None:
    with pytest.raises(BrokenRingError):
        ring_of(lambda ring: void(os.write(ring.filled_out, message.to_bytes(4, "little"))))


def test_a_ring_takes_no_more_memory_than_it_was_given() -> None:
    ring = Ring.make()
    try:
        with pytest.raises(PermissionError):
            os.pwrite(ring.memory, b"more", os.fstat(ring.memory).st_size)
        with pytest.raises(PermissionError):
            os.ftruncate(ring.memory, 0)
    finally:
        ring.close()


@pytest.mark.parametrize("flood", [protocol.BEAT, b"x"])
async def test_a_worker_that_talks_without_end_is_given_up(flood: bytes) -> None:
    zygote = await handle.Zygote.start()
    (result, out), (heard, watermarks) = os.pipe(), os.pipe()
    os.set_blocking(result, False)
    worker = handle.Worker(zygote, 1, result, watermarks)

    def talk() -> None:
        with contextlib.suppress(BrokenPipeError):
            while True:
                os.write(out, flood * 100)

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        async with asyncio.timeout(20):
            assert len(await worker.answer(lambda: False)) > protocol.ANSWER_BYTES
    finally:
        worker.close()
        talking.join()
        os.close(out)
        os.close(heard)
        await zygote.stop()


@pytest.mark.parametrize(
    ("beat", "fed", "given_up"),
    [
        (protocol.IDLE_BEAT, True, True),
        (protocol.IDLE_BEAT, False, False),
        (protocol.BEAT, True, False),
    ],
)
async def test_a_worker_whose_decoder_beats_and_does_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, beat: bytes, fed: bool, given_up: bool
) -> None:
    """Once all bytes are there: before, it may wait for them."""
    monkeypatch.setattr(handle, "STUCK_SECONDS", 1.0)
    zygote = await handle.Zygote.start()
    (result, out), (heard, watermarks) = os.pipe(), os.pipe()
    os.set_blocking(result, False)
    worker = handle.Worker(zygote, 1, result, watermarks)
    answer = asyncio.create_task(worker.answer(lambda: fed))
    try:
        for _ in range(25):
            os.write(out, beat)
            await asyncio.wait([answer], timeout=0.1)
        assert answer.done() is given_up
        if given_up:
            assert isinstance(answer.exception(), TimeoutError)
    finally:
        answer.cancel()
        await asyncio.wait([answer])
        worker.close()
        os.close(out)
        os.close(heard)
        await zygote.stop()


def test_a_ring_that_only_beats_has_stopped() -> None:
    ring, flow = Ring.make(), Flow()
    chunks: list[bytes] = []
    reader = threading.Thread(target=lambda: chunks.extend(drain(ring, 5.0, flow)))
    reader.start()
    try:
        fill_one = threading.Thread(target=lambda: fill(ring, iter([b"a"])))
        os.write(ring.filled_out, ALIVE)
        flow.has_stopped()
        until_true(flow.has_stopped)
        fill_one.start()
        fill_one.join()
        reader.join()
        assert chunks == [b"a"]
        assert not flow.has_stopped()
    finally:
        ring.close()


def until_true(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends


def void(_: object) -> None:
    """Forget a result."""


def test_a_heart_beats_while_its_process_is_held_up() -> None:
    pulse, out = os.pipe()
    with heart.Heart(lambda: os.write(out, b"beat")):
        assert os.read(pulse, 4) == os.read(pulse, 4) == b"beat"
    os.close(out)
    assert os.read(pulse, 100) in (b"", b"beat")
    os.close(pulse)
