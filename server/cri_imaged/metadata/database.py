"""The metadata database: one SQLite file in WAL mode, used by one thread.

Two kinds of commit. An ordinary one is atomic and survives a process crash at once, and a power
cut once the write-ahead log reaches the disk (`synchronous=NORMAL`). A `durable` one has reached
the disk when it returns (`synchronous=FULL`): deletions and durability marks need that.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cri_imaged.errors import NoSpaceError
from cri_imaged.metadata import schema

T = TypeVar("T")

_SETTINGS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA temp_store=MEMORY",
)


class Database:
    """Runs functions over the connection, one at a time, off the event loop."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create the database at `path` and bring its schema up to date.

        Raises:
            SchemaTooNewError: a newer version of the program wrote it.
            sqlite3.DatabaseError: it is corrupt.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` in a read transaction and return its result."""
        return await self._run(lambda: _transact(self._connection, "BEGIN", function))

    async def write(
        self, function: Callable[[sqlite3.Connection], T], *, durable: bool = False
    ) -> T:
        """Run `function` in a write transaction: all of it happens, or nothing of it.

        A caller that is cancelled here cannot know which; the transaction still ends by itself.

        Raises:
            NoSpaceError: the disk is full; nothing of it happened.
        """

        def work() -> T:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            return _transact(self._connection, "BEGIN IMMEDIATE", function)

        return await self._run(work)

    async def close(self) -> None:
        """Check-point and close. Waits for what runs."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
        connection.row_factory = sqlite3.Row
        schema.migrate(connection)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    except BaseException:
        connection.close()
        raise
    return connection


def _transact(
    connection: sqlite3.Connection, begin: str, function: Callable[[sqlite3.Connection], T]
) -> T:
    connection.execute(begin)
    try:
        result = function(connection)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:  # a full disk ends it
            connection.execute("ROLLBACK")
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_FULL:
            raise NoSpaceError("no space left for the metadata database; make room") from error
        raise
    return result
