"""Transactions, migrations, and disks that are full."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged.errors import ConfigError, InUseError, NoSpaceError
from cri_imaged.metadata import blobs, schema
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.schema import SchemaTooNewError
from cri_imaged.oci.digest import Digest
from tests.support.require import require_real


def insert(db: sqlite3.Connection, *names: str) -> None:
    for name in names:
        blobs.insert(db, Digest.of(name.encode()), len(name), None)


def count(db: sqlite3.Connection) -> int:
    return len(blobs.all_present(db))


async def test_all_of_a_transaction_or_nothing(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "m.db")

    def half(db: sqlite3.Connection) -> None:
        insert(db, "a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(half)
    assert await database.read(count) == 0
    await database.write(lambda db: insert(db, "a", "b"), durable=True)
    assert await database.read(count) == 2
    await database.close()
    again = await Database.open(tmp_path / "m.db")
    assert await again.read(count) == 2
    await again.close()


async def test_a_read_changes_nothing_where_it_fails(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "m.db")
    with pytest.raises(sqlite3.OperationalError):
        await database.read(lambda db: db.execute("SELECT nonsense"))
    await database.write(lambda db: insert(db, "a"))
    assert await database.read(count) == 1
    await database.close()


async def test_a_database_that_another_process_holds_is_told_of(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "m.db")
    await database.read(lambda db: db.execute("PRAGMA busy_timeout=10"))
    other = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InUseError, match="locked by another process"):
        await database.write(lambda db: insert(db, "a"))
    other.execute("ROLLBACK")
    other.close()
    await database.write(lambda db: insert(db, "a"))
    await database.close()


@pytest.mark.parametrize("steps", range(3))
async def test_a_cancelled_write_leaves_the_database_usable(tmp_path: Path, steps: int) -> None:
    database = await Database.open(tmp_path / "m.db")
    task = asyncio.create_task(database.write(lambda db: insert(db, "a", "b")))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert await database.read(count) in (0, 2)
    await database.write(lambda db: insert(db, "c"))
    await database.close()


async def test_pages_are_kept_in_memory(tmp_path: Path) -> None:
    def fill(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE filler (data BLOB)")
        db.executemany("INSERT INTO filler VALUES (zeroblob(3000))", [()] * 3000)

    def read_all(db: sqlite3.Connection) -> int:
        before = characters_read()
        db.execute("SELECT sum(length(data)) FROM filler").fetchone()
        return characters_read() - before

    def characters_read() -> int:
        return int(Path("/proc/thread-self/io").read_text().split()[1])

    database = await Database.open(tmp_path / "m.db")
    await database.write(fill)
    await database.close()
    again = await Database.open(tmp_path / "m.db")
    await again.read(read_all)
    assert await again.read(read_all) < 100_000
    await again.close()


async def test_foreign_keys_are_enforced(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "m.db")
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(
            lambda db: db.execute("INSERT INTO lease_blobs (lease, blob) VALUES ('x', 'y')")
        )
    await database.close()


# --- schema ----------------------------------------------------------------------------------


def version(path: Path, new: int | None = None) -> int:
    connection = sqlite3.connect(path)
    try:
        if new is not None:
            connection.execute(f"PRAGMA user_version={new}")
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


async def test_a_new_store_has_every_migration(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "m.db")).close()
    assert version(tmp_path / "m.db") == len(schema.MIGRATIONS)


async def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    await (await Database.open(path)).close()
    version(path, len(schema.MIGRATIONS) + 1)
    with pytest.raises(SchemaTooNewError, match="newer cri-imaged") as error:
        await Database.open(path)
    assert isinstance(error.value, ConfigError)
    assert version(path) == len(schema.MIGRATIONS) + 1


async def test_a_store_of_every_earlier_version_opens(tmp_path: Path) -> None:
    """Built from the migrations as they were released, which are never edited."""
    for earlier in range(len(schema.MIGRATIONS)):
        path = tmp_path / f"{earlier}.db"
        connection = sqlite3.connect(path)
        for migration in schema.MIGRATIONS[:earlier]:
            connection.executescript(migration)
        connection.close()
        version(path, earlier)
        database = await Database.open(path)
        await database.write(lambda db: insert(db, "a"))
        await database.close()
        assert version(path) == len(schema.MIGRATIONS)


async def test_what_an_older_store_imported_is_known_by_where_its_layers_are_from(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.db"
    connection = sqlite3.connect(path)
    for migration in schema.MIGRATIONS[:8]:
        connection.executescript(migration)
    for number, repositories in enumerate((["import"], ["r.example/a"], ["import", "r.example/a"])):
        row = (f"sha256:{number}",)
        connection.execute("INSERT INTO blobs (digest, size, created) VALUES (?, 1, 1)", row)
        connection.execute(
            "INSERT INTO snapshots (id, snapshotter, chain_id, created) VALUES (?, 'native', ?, 1)",
            (number, *row),
        )
        connection.execute(
            "INSERT INTO images (id, image_id, handler, target, target_type, target_size, manifest,"
            " snapshotter, snapshot, size, user, created)"
            " VALUES (?1, ?2, '', ?2, '', 1, ?2, 'native', ?1, 1, '', 1)",
            (number, *row),
        )
        for repository in repositories:
            connection.execute(
                "INSERT INTO provenance (snapshot, blob, repository, blob_size, diff_id, size,"
                " entries) VALUES (?, ?, ?, 1, '', 1, 1)",
                (number, *row, repository),
            )
    connection.commit()
    connection.close()
    version(path, 8)
    database = await Database.open(path)
    rows = await database.read(
        lambda db: [tuple(row) for row in db.execute("SELECT imported, used > 1 FROM images")]
    )
    assert rows == [(1, 1), (0, 1), (0, 1)], "and nothing is old because it was never looked at"
    await database.close()


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.db"
    await (await Database.open(path)).close()
    bad = "CREATE TABLE added (x); CREATE TABLE blobs (y);"
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, bad))
        with pytest.raises(sqlite3.OperationalError, match="blobs"):
            await Database.open(path)
    assert version(path) == len(schema.MIGRATIONS)
    database = await Database.open(path)
    tables = await database.read(
        lambda db: {row["name"] for row in db.execute("SELECT name FROM sqlite_schema")}
    )
    assert "added" not in tables
    await database.close()


async def test_a_corrupt_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(sqlite3.DatabaseError):
        await Database.open(path)


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    require_real(os.geteuid() == 0, "mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_full_disk_is_told_as_such_and_harms_nothing(small: Path, durable: bool) -> None:
    filler = small / "filler"
    filler.write_bytes(bytes(100 << 10))
    database = await Database.open(small / "m.db")
    await database.write(lambda db: insert(db, "kept"))
    names = [f"{number}" for number in range(5000)]
    with pytest.raises(NoSpaceError, match="metadata"):
        await database.write(lambda db: insert(db, *names), durable=durable)
    assert await database.read(count) == 1

    async def fill() -> None:
        for name in names:
            await database.write(lambda db, name=name: insert(db, name), durable=durable)  # type: ignore[misc]

    with pytest.raises(NoSpaceError, match="metadata"):
        await fill()
    held = await database.read(count)
    filler.unlink()
    await database.write(lambda db: insert(db, "after"), durable=durable)
    assert await database.read(count) == held + 1
    await database.close()
