"""The content store's files and rows: what goes, what comes back, and full disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError, NoSpaceError
from cri_imaged.metadata import blobs
from cri_imaged.oci.digest import Digest
from tests.content.workbench import Bench, bring, descriptor, present
from tests.support.require import require_real

DATA = os.urandom(256)


async def test_a_blob_that_the_disk_does_not_give_back_is_damaged(bench: Bench) -> None:
    """Or neither a check nor a start after a power cut would come past it."""
    digest = await bench.add(DATA)
    bench.files.path(digest).unlink()
    bench.files.path(digest).symlink_to("/proc/self/mem")  # whose first page is never there
    assert not await bench.store.verify(digest)
    with pytest.raises(CorruptContentError):
        await bench.store.read(digest, 1000)
    assert await bench.store.info(digest) == replace(present(DATA), state="lost")


async def delete_row(bench: Bench, digest: Digest) -> None:
    await bench.database.write(
        lambda db: db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
    )


async def trashed(bench: Bench) -> bool:
    await bench.trash.drain()
    return not os.listdir(bench.root / "trash")


async def test_a_blob_that_could_not_be_published_is_not_taken_for_written(bench: Bench) -> None:
    """A small one is written when it is published."""
    folder = bench.files.path(descriptor(DATA).digest).parent
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA)
        folder.rename(folder.with_name("away"))
        with pytest.raises(FileNotFoundError):
            await ingest.commit()
        folder.with_name("away").rename(folder)
        assert ingest.offset == 0
        await ingest.write(DATA)
        await ingest.commit()
    assert await bench.store.read(descriptor(DATA).digest, 1000) == DATA


async def test_a_blob_whose_file_somebody_removed_meanwhile_is_not_there(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA)
        for path in (bench.root / "content" / "ingest").iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError):
            await ingest.commit()
    assert await bench.store.info(descriptor(DATA).digest) is None


async def test_a_small_blob_that_nobody_committed_waits_for_the_next_writer(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA)
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        assert ingest.offset == len(DATA)
        await ingest.commit()
    assert await bench.store.read(descriptor(DATA).digest, 1000) == DATA


# --- reclaim ---------------------------------------------------------------------------------


async def test_the_file_goes_after_the_row(bench: Bench) -> None:
    digest = await bench.add(DATA)
    await delete_row(bench, digest)
    assert bench.files.path(digest).exists()
    await bench.store.reclaim([digest])
    assert bench.on_disk() == {}
    assert await trashed(bench)


async def test_a_blob_that_came_back_stays(bench: Bench) -> None:
    digest = await bench.add(DATA)
    await delete_row(bench, digest)
    await bench.add(DATA)
    await bench.store.reclaim([digest])
    assert bench.files.path(digest).read_bytes() == DATA


async def test_a_lost_blob_s_file_goes_and_comes_back(bench: Bench) -> None:
    digest = await bench.add(DATA)
    await bench.database.write(lambda db: blobs.lost(db, [digest]))
    await bench.store.reclaim([digest, Digest.of(b"never there")])
    assert bench.on_disk() == {}
    await bench.add(DATA)
    assert await bench.store.info(digest) == present(DATA)


async def test_who_has_a_blob_open_reads_it_to_its_end(bench: Bench) -> None:
    digest = await bench.add(DATA)
    await delete_row(bench, digest)
    with bench.files.path(digest).open("rb") as file:
        await bench.store.reclaim([digest])
        assert await trashed(bench)
        assert file.read() == DATA


# --- after a start ---------------------------------------------------------------------------


async def test_files_without_a_row_go(bench: Bench) -> None:
    kept, orphan = await bench.add(DATA), await bench.add(b"orphan")
    await delete_row(bench, orphan)
    (bench.root / "content" / "ingest" / "put-left").write_bytes(b"x")
    assert await bench.store.orphans() == [bench.files.path(orphan)]
    await bench.store.reap()
    assert list(bench.on_disk()) == [f"blobs/sha256/{kept.hex}"]
    assert await trashed(bench)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 9)])
async def test_blobs_whose_file_is_gone_or_cut_are_lost(bench: Bench, damage: object) -> None:
    whole, lost = await bench.add(DATA), await bench.add(b"somebody takes this away")
    damage(bench.files.path(lost))  # type: ignore[operator]
    await bench.store.reap()
    info = await bench.store.info(lost)
    assert info is not None
    assert info.state == "lost"
    assert await bench.store.info(whole) == present(DATA)


async def test_a_blob_that_was_taken_away_is_noticed_when_it_is_held(bench: Bench) -> None:
    digest = await bench.add(DATA)
    bench.files.path(digest).unlink()
    assert await bench.store.hold(digest, bench.lease) == replace(present(DATA), state="lost")
    assert await bench.store.info(digest) == replace(present(DATA), state="lost")


# --- partial blobs ---------------------------------------------------------------------------


def age(bench: Bench, data: bytes, seconds: float) -> None:
    digest = descriptor(data).digest
    name = f"{digest.algorithm}-{digest.hex}-{len(data)}"
    path = bench.root / "content" / "ingest" / name
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


async def test_partial_blobs_go_by_age(bench: Bench) -> None:
    old, new = os.urandom(100), os.urandom(100)
    await bench.leave(old, 40)
    await bench.leave(new, 50)
    age(bench, old, 3600)
    assert await bench.store.drop_ingests(max_seconds=1800, max_bytes=1 << 30) == (1, 40)
    assert list(bench.on_disk().values()) == [50]


async def test_the_oldest_partial_blobs_go_until_the_rest_fits(bench: Bench) -> None:
    made = [os.urandom(100) for _ in range(4)]
    for number, data in enumerate(made):
        await bench.leave(data, 10 + number)
        age(bench, data, 1000 - number)
    assert await bench.store.drop_ingests(max_seconds=1e6, max_bytes=26) == (2, 21)
    assert sorted(bench.on_disk().values()) == [12, 13]
    assert await bench.store.drop_ingests(max_seconds=1e6, max_bytes=26) == (0, 0)


async def test_what_is_being_written_stays(bench: Bench) -> None:
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        await ingest.write(DATA[:100])
        assert await bench.store.drop_ingests(max_seconds=0, max_bytes=0) == (0, 0)
        await ingest.write(DATA[100:])
        await ingest.commit()
    assert await bench.store.verify(descriptor(DATA).digest)


async def test_all_partial_blobs_may_go(bench: Bench) -> None:
    await bench.leave(DATA, 10)
    assert await bench.store.drop_ingests(max_seconds=0, max_bytes=0) == (1, 10)
    async with bench.store.writer(descriptor(DATA), bench.lease) as ingest:
        assert ingest.offset == 0


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def small(bench: Bench) -> Iterator[Bench]:
    """The store on a file system of 1 MiB, its database elsewhere."""
    require_real(os.geteuid() == 0, "mounting a small file system needs root")
    content = bench.root / "content"
    options = "size=1m,nr_inodes=20"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", content], check=True)
    try:
        again = Bench(bench.root, bench.database, bench.trash)
        again.lease = bench.lease
        yield again
    finally:
        subprocess.run(["umount", "--lazy", content], check=True)


def use_up_inodes(folder: Path) -> Iterator[Path]:
    for number in range(100):
        (folder / f"{number}").touch()
        yield folder / f"{number}"


def free(bench: Bench) -> int:
    disk = os.statvfs(bench.root / "content")
    return disk.f_bavail * disk.f_frsize


async def test_a_blob_that_does_not_fit_fails_and_gives_its_space_back(small: Bench) -> None:
    before = free(small)
    data = os.urandom(2 << 20)
    async with small.store.writer(descriptor(data), small.lease) as ingest:
        with pytest.raises(NoSpaceError, match=f"{descriptor(data).digest}.*No space left"):
            await bring(ingest, data)
        assert ingest.offset == 0
        assert free(small) == before
    assert small.on_disk() == {}
    await small.add(DATA)


async def test_a_document_that_does_not_fit_leaves_nothing_behind(small: Bench) -> None:
    data = os.urandom(2 << 20)
    with pytest.raises(NoSpaceError, match=str(descriptor(data).digest)):
        await small.store.put(descriptor(data).digest, data, small.lease)
    assert small.on_disk() == {}
    assert await small.store.info(descriptor(data).digest) is None


async def test_no_inodes_left(small: Bench) -> None:
    with pytest.raises(OSError, match="No space left"):
        list(use_up_inodes(small.root / "content"))
    with pytest.raises(NoSpaceError, match="No space left"):
        await small.leave(DATA, 1)
    with pytest.raises(NoSpaceError, match="No space left"):
        await small.store.put(descriptor(DATA).digest, DATA, small.lease)
    for path in (small.root / "content").glob("[0-9]*"):
        path.unlink()
    await small.add(DATA)
