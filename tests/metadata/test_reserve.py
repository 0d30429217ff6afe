"""Space set aside beside the database: on a full disk there is room for what makes room."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

import pytest

from cri_imaged.errors import ConfigError, NoSpaceError
from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from tests.support.require import require_real

RESERVE = 256 << 10


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of 2 MiB."""
    require_real(os.geteuid() == 0, "mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(directory: Path) -> Path:
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_for_ever(file)
    return filler


def write_for_ever(file: RawIOBase) -> None:
    while True:
        file.write(bytes(4096))


def insert(db: sqlite3.Connection) -> None:
    for _ in range(200):
        leases.insert(db, leases.new())


async def insert_for_ever(database: Database) -> None:
    while True:
        await database.write(insert)


def delete(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM leases")


def count(db: sqlite3.Connection) -> int:
    found: int = db.execute("SELECT count(*) FROM leases").fetchone()[0]
    return found


def reserved(directory: Path) -> int | None:
    """Bytes that the reserve takes on the disk; None where there is no such file."""
    file = directory / "m.db-reserve"
    return file.stat().st_blocks * 512 if file.exists() else None


@pytest.mark.parametrize("durable", [True, False])
async def test_deletions_have_room_on_a_full_disk(small: Path, durable: bool) -> None:
    database = await Database.open(small / "m.db", reserve=RESERVE)
    await database.write(insert)
    filler = fill(small)
    with pytest.raises(NoSpaceError, match="metadata"):
        await insert_for_ever(database)
    assert reserved(small) == RESERVE  # which is not theirs
    held = await database.read(count)
    await database.write(delete, durable=durable, makes_room=not durable)
    assert held > 0
    assert await database.read(count) == 0
    # What it took is not there for others until there is room again.
    fill(small)
    with pytest.raises(NoSpaceError, match="metadata"):
        await database.write(insert)
    filler.unlink()
    await database.write(insert)
    assert await database.read(count) == 200
    assert reserved(small) == RESERVE
    await database.close()


async def test_room_that_is_less_than_the_reserve_is_for_what_makes_room(small: Path) -> None:
    database = await Database.open(small / "m.db", reserve=RESERVE)
    await database.write(insert)
    fill(small)
    await database.write(delete, makes_room=True)
    filler = fill(small)
    os.truncate(filler, filler.stat().st_size - RESERVE // 2)
    with pytest.raises(NoSpaceError, match="metadata"):
        await database.write(lambda db: leases.insert(db, leases.new()))
    assert reserved(small) is None  # no part of it is taken either
    await database.write(delete, makes_room=True)
    await database.write(delete, durable=True)
    await database.close()


async def test_a_database_opens_on_a_full_disk(small: Path) -> None:
    database = await Database.open(small / "m.db", reserve=RESERVE)
    await database.write(insert)
    await database.close()
    fill(small)
    database = await Database.open(small / "m.db", reserve=RESERVE)
    await database.write(delete, durable=True)
    assert await database.read(count) == 0
    await database.close()


async def test_nothing_was_set_aside(small: Path) -> None:
    await (await Database.open(small / "m.db")).close()
    fill(small)
    with pytest.raises(NoSpaceError, match="metadata"):
        await Database.open(small / "m.db")


async def test_what_may_not_be_written_is_not_taken_for_corruption(small: Path) -> None:
    await (await Database.open(small / "m.db")).close()
    (small / "folder.db").mkdir()
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", small], check=True)
    for name in ("m.db", "new.db", "folder.db"):
        with pytest.raises(ConfigError, match=f"root: .*{name}"):
            await Database.open(small / name)
