"""Leases that end by themselves, and with a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cri_imaged.errors import NotFoundError
from cri_imaged.images.leases import always, holding, spending
from cri_imaged.metadata import blobs, garbage
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease

BLOB = Digest.of(b"blob")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "metadata.db")
    yield opened
    await opened.close()


async def bring(database: Database, lease: Lease) -> None:
    await database.write(lambda db: blobs.insert(db, BLOB, 10, lease))


async def swept(database: Database) -> tuple[Digest, ...]:
    return (await database.write(garbage.sweep)).blobs


async def test_what_a_lease_brought_in_goes_with_the_transaction_that_spends_it(
    database: Database,
) -> None:
    async with holding(database, keep_for_resume=always) as lease:
        await bring(database, lease)
        assert await swept(database) == ()
        assert await spending(database, [lease], lambda _: "result") == "result"
        assert await swept(database) == (BLOB,)


def at_work(db: sqlite3.Connection) -> None:
    blobs.insert(db, Digest.of(b"another"), 10, None)
    raise NotFoundError("gone")


def at_its_commit(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA defer_foreign_keys=ON")
    db.execute("INSERT INTO lease_blobs (lease, blob) VALUES ('nobody', 'nothing')")


@pytest.mark.parametrize(
    ("fail", "error"), [(at_work, NotFoundError), (at_its_commit, sqlite3.IntegrityError)]
)
async def test_a_lease_outlives_a_transaction_that_fails(
    database: Database, fail: Callable[[sqlite3.Connection], None], error: type[Exception]
) -> None:
    async with holding(database, keep_for_resume=always) as lease:
        await bring(database, lease)
        with pytest.raises(error):
            await spending(database, [lease], fail)
        await bring(database, lease)  # it holds still
        assert await swept(database) == ()
    assert await swept(database) == (), "it waits to be resumed"


async def test_a_spent_lease_holds_nothing(database: Database) -> None:
    async with holding(database, keep_for_resume=always) as lease:
        await spending(database, [lease], lambda _: None)
        with pytest.raises(NotFoundError, match="has ended"):
            await bring(database, lease)
