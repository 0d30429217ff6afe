"""A lease for as long as a piece of work lasts."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TypeVar

from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Lease
from cri_imaged.shielding import to_the_end

T = TypeVar("T")


@asynccontextmanager
async def holding(
    database: Database, *, keep_for_resume: Callable[[bool], bool]
) -> AsyncIterator[Lease]:
    """A lease that holds what is brought in until the context ends. `keep_for_resume` is asked
    then, told whether the work went well: what no image holds may stay a while for the next try.

    Its end is not torn by a cancellation, and makes room on a full disk. Where a transaction of
    its holder's has ended it already, that was all.
    """
    lease = leases.new()
    well = False
    try:
        yield lease
        well = True
    finally:
        if not lease.ended:
            keep = keep_for_resume(well)
            await to_the_end(
                database.write(
                    lambda db: leases.end(db, lease, keep_for_resume=keep), makes_room=True
                )
            )


async def spending(
    database: Database, spent: Collection[Lease], write: Callable[[sqlite3.Connection], T]
) -> T:
    """Run `write` in a transaction that ends the leases that it makes needless. Where it fails,
    they have not ended."""

    def work(db: sqlite3.Connection) -> T:
        result = write(db)
        for lease in spent:
            leases.end(db, lease, keep_for_resume=False)
        return result

    try:
        return await to_the_end(database.write(work))
    except BaseException:
        for lease in spent:
            lease.ended = False
        raise


def never(well: bool) -> bool:
    """What was brought in is of no use to another try."""
    return False


def unless_well(well: bool) -> bool:
    """The next try takes up what a failed or cancelled one left."""
    return not well


def always(well: bool) -> bool:
    """Somebody may want it soon."""
    return True
