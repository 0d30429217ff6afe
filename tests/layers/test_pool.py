"""The worker pool: growing sources, restarts, deaths, cancellation, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from cri_imaged.errors import (
    CorruptContentError,
    LimitExceededError,
    NoSpaceError,
    SourceFailedError,
    UnsupportedContentError,
    WorkerDiedError,
)
from cri_imaged.layers.worker.pool import WorkerPool
from cri_imaged.limits import MIB, Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.ports import Activity, Applied, DirectoryTarget, Sharers
from tests.layers.listing import kinds
from tests.layers.sources import Growing, Whole, described
from tests.support import tarballs as t
from tests.support.require import require_real

GZIP, PLAIN = described(media_types.OCI_LAYER_GZIP), described(media_types.OCI_LAYER)
LAYER = t.archive(t.directory("d"), *(t.file(f"d/{n}", b"%d" % n * 1000) for n in range(100)))
NAMES = {"d", *(f"d/{n}" for n in range(100))}


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    async with WorkerPool(Limits(), max_workers=2) as pool:
        yield pool


@pytest.fixture
def into(tmp_path: Path) -> DirectoryTarget:
    (tmp_path / "root").mkdir()
    return DirectoryTarget(tmp_path / "root")


def descendants(pid: int | None = None) -> list[int]:
    """Live processes below this one, zombies left out."""
    found = []
    for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        try:
            children = (task / "children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended
        for child in map(int, children.split()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0]
                found += [child] * (state not in "ZX") + descendants(child)
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def workers() -> list[int]:
    """Layer workers: processes whose parent is a zygote, which is a child of this one."""
    found = []
    for child in descendants():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            is_zygote = b"layers.worker.zygote" in Path(f"/proc/{child}/cmdline").read_bytes()
            if is_zygote and parent_of(child) == os.getpid():
                found += descendants(child)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait for what is sure to come."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # /proc and disks send no events
            await asyncio.sleep(0.005)


def ours(root: Path) -> set[str]:
    return set(kinds(root))


def check(applied: Applied, layer: bytes, root: Path) -> None:
    assert applied.diff_id == "sha256:" + hashlib.sha256(layer).hexdigest()
    assert (applied.size, applied.entries) == (len(layer), 101)
    assert ours(root) == NAMES


@pytest.mark.parametrize(
    ("layer", "pack"),
    [(GZIP, t.gz), (described(media_types.OCI_LAYER_ZSTD), t.zst), (PLAIN, bytes)],
)
async def test_whole_source(
    pool: WorkerPool,
    into: DirectoryTarget,
    tmp_path: Path,
    layer: Descriptor,
    pack: Callable[[bytes], bytes],
) -> None:
    (tmp_path / "blob").write_bytes(pack(LAYER))
    check(await pool.apply(Whole(tmp_path / "blob"), layer, into), LAYER, into.directory)


async def test_sha512_diff_id_covers_bytes_after_the_end(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    layer = LAYER + b"more" * 100_000
    (tmp_path / "blob").write_bytes(t.gz(layer[:5000]) + t.gz(layer[5000:]))
    applied = await pool.apply(Whole(tmp_path / "blob"), GZIP, into, algorithm="sha512")
    assert applied.diff_id == "sha512:" + hashlib.sha512(layer).hexdigest()


async def test_empty_layers(pool: WorkerPool, into: DirectoryTarget, tmp_path: Path) -> None:
    for blob, layer in ((t.gz(t.END), GZIP), (b"", PLAIN), (t.gz(b""), GZIP)):
        (tmp_path / "blob").write_bytes(blob)
        applied = await pool.apply(Whole(tmp_path / "blob"), layer, into)
        assert (applied.entries, applied.implicit) == (0, (b"",))


async def test_growing_source(pool: WorkerPool, into: DirectoryTarget, tmp_path: Path) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    for piece in t.split(LAYER, [1, 511, 7000, 20_000]):
        await source.write(piece)
    await until(lambda: (into.directory / "d/98").exists())
    assert not task.done()
    await source.complete()
    check(await task, LAYER, into.directory)


async def test_restart_empties_the_directory(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    source = Growing(tmp_path)
    wrong = t.archive(
        t.directory(".", mode=0o700, uid=9, pax={"SCHILY.xattr.user.wrong": "x"}),
        t.directory("wrong", mode=0),
        t.directory("wrong/deep", mode=0),
        t.file("wrong/deep/x"),
        t.file("d", b"a file here"),
    )
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    for _ in range(3):
        await source.write(wrong)
        await until(lambda: (into.directory / "d").is_file())
        await source.restart()
    await source.write(LAYER)
    await source.complete()
    check(await task, LAYER, into.directory)
    status = into.directory.stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o755, os.geteuid())
    assert "user.wrong" not in os.listxattr(into.directory)


async def test_the_kernel_ends_workers_before_the_daemon(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, GZIP, into))
    await source.write(t.gz(LAYER)[:10])
    await until(workers)
    for worker in workers():
        assert oom_score(worker) == 500
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_wrong_bytes_wait_for_the_sources_word(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, GZIP, into))
    await source.write(t.gz(LAYER)[:10])
    await until(workers)
    await source.write(b"not deflated at all" * 100)
    await until(lambda: not workers())
    assert not task.done()
    await source.restart()
    await source.write(t.gz(LAYER))
    await source.complete()
    check(await task, LAYER, into.directory)


async def test_wrong_bytes_that_are_the_right_ones(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    await source.write(b"not a header")
    await until(workers)
    await source.write(b"not a header" * 99)
    await until(lambda: not workers())
    await source.complete()
    with pytest.raises(CorruptContentError, match="malformed header"):
        await task


@pytest.mark.parametrize("data", [b"", LAYER[:3000], b"not a header" * 100])
async def test_failed_source(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path, data: bytes
) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    if data:
        await source.write(data)
    await source.fail("every mirror is down")
    with pytest.raises(SourceFailedError, match="every mirror is down"):
        await task
    assert not workers()


async def test_limits_do_not_wait_for_the_source(into: DirectoryTarget, tmp_path: Path) -> None:
    async with WorkerPool(Limits(layer_entries=50), max_workers=1) as pool:
        source = Growing(tmp_path)
        await source.write(LAYER)
        with pytest.raises(LimitExceededError, match="layer_entries"):
            await pool.apply(source, PLAIN, into)


async def test_killed_once(pool: WorkerPool, into: DirectoryTarget, tmp_path: Path) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    await source.write(LAYER[:30_000])
    await until(lambda: (into.directory / "d/5").exists())
    (into.directory / "left").write_text("of the first attempt")
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    await source.write(LAYER[30_000:])
    await source.complete()
    check(await task, LAYER, into.directory)


async def test_killed_twice(pool: WorkerPool, into: DirectoryTarget, tmp_path: Path) -> None:
    source = Growing(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "blob").write_bytes(LAYER)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    await source.write(LAYER[:30_000])
    seen: set[int] = set()
    for _ in range(2):
        await until(lambda: set(workers()) - seen)
        (worker,) = workers()
        seen.add(worker)
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="died 2 times: killed by signal 9"):
        await task
    other = DirectoryTarget(tmp_path / "other")
    check(await pool.apply(Whole(tmp_path / "blob"), PLAIN, other), LAYER, other.directory)


async def test_the_zygote_is_killed(
    pool: WorkerPool, into: DirectoryTarget, tmp_path: Path
) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    await source.write(LAYER[:30_000])
    await until(workers)
    worker = workers()[0]
    os.kill(parent_of(worker), signal.SIGKILL)
    await source.write(LAYER[30_000:])
    await source.complete()
    check(await task, LAYER, into.directory)
    assert worker not in descendants()


async def test_cancellation(pool: WorkerPool, into: DirectoryTarget, tmp_path: Path) -> None:
    source = Growing(tmp_path)
    task = asyncio.create_task(pool.apply(source, PLAIN, into))
    await source.write(LAYER[:30_000])
    await until(workers)
    before = set(os.listdir("/proc/self/fd"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not workers()
    (tmp_path / "blob").write_bytes(LAYER)
    await pool.apply(Whole(tmp_path / "blob"), PLAIN, into)
    assert len(os.listdir("/proc/self/fd")) <= len(before)


class Crowd:
    """Layers of one pull, each with a directory of its own below `folder`."""

    def __init__(self, pool: WorkerPool, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.share = Activity()
        self.tasks: list[asyncio.Task[Applied]] = []
        self.sources: list[Growing] = []

    async def begin(self, count: int, *, complete: bool) -> None:
        for _ in range(count):
            folder = self.folder / str(len(self.tasks))
            (folder / "root").mkdir(parents=True)
            source = Growing(folder)
            await source.write(LAYER if complete else LAYER[:30_000])
            if complete:
                await source.complete()
            into = DirectoryTarget(folder / "root")
            apply = self.pool.apply(source, PLAIN, into, share=Sharers(self.share))
            self.tasks.append(asyncio.create_task(apply))
            self.sources.append(source)

    async def end(self, numbers: range) -> None:
        """The rest of these layers arrives."""
        for number in numbers:
            await self.sources[number].write(LAYER[30_000:])
            await self.sources[number].complete()

    async def check(self, numbers: range) -> None:
        for number in numbers:
            check(await self.tasks[number], LAYER, self.folder / str(number) / "root")


async def most_workers(tasks: list[asyncio.Task[Applied]]) -> int:
    """How many workers run at the same time until `tasks` are done."""
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, len(workers()))
        await asyncio.sleep(0)
    return most


async def test_no_more_than_max_workers(tmp_path: Path) -> None:
    async with WorkerPool(Limits(), max_workers=2) as pool:
        crowd = Crowd(pool, tmp_path)
        await crowd.begin(12, complete=True)
        assert 0 < await most_workers(crowd.tasks) <= 2
        await crowd.check(range(12))


async def test_layers_that_do_not_arrive_hold_nobody_up(tmp_path: Path) -> None:
    async with WorkerPool(Limits(), max_workers=1) as pool:
        crowd = Crowd(pool, tmp_path)
        await crowd.begin(6, complete=False)
        await until(lambda: len(workers()) == 4)
        await crowd.begin(2, complete=True)
        await crowd.check(range(6, 8))
        assert len(workers()) == 4
        await crowd.end(range(6))
        await crowd.check(range(6))


async def test_no_child_outlives_the_pool(into: DirectoryTarget, tmp_path: Path) -> None:
    before, others = set(os.listdir("/proc/self/fd")), descendants()
    async with WorkerPool(Limits(), max_workers=1) as pool:
        source = Growing(tmp_path)
        task = asyncio.create_task(pool.apply(source, PLAIN, into))
        await source.write(LAYER[:30_000])
        await until(workers)
    assert descendants() == others
    with pytest.raises(WorkerDiedError):
        await task
    with pytest.raises(WorkerDiedError, match="closed"):
        await pool.apply(source, PLAIN, into)
    assert set(os.listdir("/proc/self/fd")) <= before  # threads of other tests may close some


def test_under_the_daemons_event_loop(into: DirectoryTarget, tmp_path: Path) -> None:
    async def grow() -> Applied:
        async with WorkerPool(Limits(), max_workers=1) as pool:
            source = Growing(tmp_path)
            task = asyncio.create_task(pool.apply(source, PLAIN, into))
            await source.write(LAYER[:30_000])
            await until(workers)
            await source.restart()
            for piece in t.split(LAYER, [10_000]):
                await source.write(piece)
            await source.complete()
            return await task

    others = descendants()
    check(uvloop.run(grow()), LAYER, into.directory)
    assert descendants() == others


async def test_unknown_media_type(pool: WorkerPool, into: DirectoryTarget, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(LAYER)
    with pytest.raises(UnsupportedContentError, match="squashfs"):
        await pool.apply(Whole(tmp_path / "blob"), described("application/squashfs"), into)


async def test_memory_is_limited(into: DirectoryTarget, tmp_path: Path) -> None:
    with (tmp_path / "blob").open("wb") as file:
        file.writelines(t.whiteout(f"{n:090}") for n in range(200_000))
        file.write(t.END)
    async with WorkerPool(Limits(worker_memory_bytes=56 * MIB), max_workers=1) as pool:
        with pytest.raises(LimitExceededError, match="worker_memory_bytes"):
            await pool.apply(Whole(tmp_path / "blob"), PLAIN, into)


async def test_the_reserve_stays_free_while_layers_are_written(tmp_path: Path) -> None:
    """Of all that write at the same time; and what they unpack to is known only now."""
    require_real(os.geteuid() == 0, "only root mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = await asyncio.create_subprocess_exec(
        *("mount", "-t", "tmpfs", "-o", "size=48m", "small", str(disk))
    )
    assert await mounted.wait() == 0
    try:
        targets = [DirectoryTarget(disk / str(number)) for number in range(2)]
        for target in targets:
            target.directory.mkdir()
        files = [t.file(f"f{number}", bytes(MIB)) for number in range(40)]
        (tmp_path / "blob").write_bytes(t.gz(t.archive(*files)))
        async with WorkerPool(Limits(), max_workers=2, reserve=16 * MIB) as pool:
            found = await asyncio.gather(
                *(pool.apply(Whole(tmp_path / "blob"), GZIP, target) for target in targets),
                return_exceptions=True,
            )
        assert {type(each) for each in found} == {NoSpaceError}
        assert "image.disk_reserve" in str(found[0])
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize > 12 * MIB
    finally:
        unmounted = await asyncio.create_subprocess_exec("umount", str(disk))
        assert await unmounted.wait() == 0


async def test_no_space(pool: WorkerPool, tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root mounts")
    target = tmp_path / "small"
    target.mkdir()
    mounted = await asyncio.create_subprocess_exec(
        *("mount", "-t", "tmpfs", "-o", "size=64k", "small", str(target))
    )
    assert await mounted.wait() == 0
    try:
        (tmp_path / "blob").write_bytes(t.archive(t.file("large", bytes(200_000))))
        with pytest.raises(NoSpaceError, match="'large' at offset 0"):
            await pool.apply(Whole(tmp_path / "blob"), PLAIN, DirectoryTarget(target))
    finally:
        unmounted = await asyncio.create_subprocess_exec("umount", str(target))
        assert await unmounted.wait() == 0
