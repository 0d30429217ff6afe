"""A lease for as long as a piece of work lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cri_imaged.metadata import leases
from cri_imaged.metadata.database import Database
from cri_imaged.ports import Lease
from cri_imaged.shielding import to_the_end


@asynccontextmanager
async def holding(
    database: Database, *, keep_for_resume: Callable[[bool], bool]
) -> AsyncIterator[Lease]:
    """A lease that holds what is brought in until the context ends. `keep_for_resume` is asked
    then, told whether the work went well: what no image holds may stay a while for the next try.

    Its end is not torn by a cancellation, and makes room on a full disk.
    """
    lease = leases.new()
    well = False
    try:
        await database.write(lambda db: leases.insert(db, lease))
        yield lease
        well = True
    finally:
        keep = keep_for_resume(well)
        await to_the_end(
            database.write(lambda db: leases.end(db, lease, keep_for_resume=keep), makes_room=True)
        )


def never(well: bool) -> bool:
    """What was brought in is of no use to another try."""
    return False


def unless_well(well: bool) -> bool:
    """The next try takes up what a failed or cancelled one left."""
    return not well


def always(well: bool) -> bool:
    """Somebody may want it soon."""
    return True
