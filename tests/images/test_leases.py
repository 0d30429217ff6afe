"""Leases that end by themselves, and with a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
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


async def test_a_lease_outlives_a_transaction_that_fails(database: Database) -> None:
    def fail(db: sqlite3.Connection) -> None:
        blobs.insert(db, Digest.of(b"another"), 10, None)
        raise NotFoundError("gone")

    async with holding(database, keep_for_resume=always) as lease:
        await bring(database, lease)
        with pytest.raises(NotFoundError, match="gone"):
            await spending(database, [lease], fail)
        await bring(database, lease)  # it holds still
        assert await swept(database) == ()
    assert await swept(database) == (), "it waits to be resumed"


async def test_a_spent_lease_holds_nothing(database: Database) -> None:
    async with holding(database, keep_for_resume=always) as lease:
        await spending(database, [lease], lambda _: None)
        with pytest.raises(NotFoundError, match="has ended"):
            await bring(database, lease)
