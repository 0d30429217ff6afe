"""The metadata database: one SQLite file in WAL mode, used by one thread.

Two kinds of commit. An ordinary one is atomic and survives a process crash at once, and a power
cut once the write-ahead log reaches the disk (`synchronous=NORMAL`). A `durable` one has reached
the disk when it returns (`synchronous=FULL`): deletions and durability marks need that.

On a full disk ordinary transactions fail. Those that make room have space set aside for them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cri_imaged.errors import ConfigError, NoSpaceError
from cri_imaged.metadata import schema
from cri_imaged.metadata.reserve import Reserve

T = TypeVar("T")

_SETTINGS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA temp_store=MEMORY",
)


_NO_SPACE = "no space left for the metadata database; make room"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class CorruptDatabaseError(sqlite3.DatabaseError):
    """What is in the database file is no sound database. (A disk that fails says other things.)"""


class Database:
    """Runs functions over the connection, one at a time, off the event loop."""

    def __init__(
        self, connection: sqlite3.Connection, thread: ThreadPoolExecutor, reserve: Reserve
    ) -> None:
        self._connection = connection
        self._thread = thread
        self._reserve = reserve

    @classmethod
    async def open(cls, path: Path, *, reserve: int = 0) -> Database:
        """Open or create the database at `path` and bring its schema up to date. `reserve` bytes
        beside it are set aside for the day when the disk is full.

        Raises:
            SchemaTooNewError: a newer version of the program wrote it.
            CorruptDatabaseError
            ConfigError: it may not be written here: another user's, or a read-only file system.
            NoSpaceError: the disk is full, and nothing was set aside.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        space = Reserve(path.with_name(f"{path.name}-reserve"), reserve)
        try:
            connection = await asyncio.get_running_loop().run_in_executor(
                thread, _open, path, space
            )
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread, space)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` in a read transaction and return its result."""
        return await self._run(lambda: _transact(self._connection, "BEGIN", function))

    async def write(
        self,
        function: Callable[[sqlite3.Connection], T],
        *,
        durable: bool = False,
        makes_room: bool = False,
    ) -> T:
        """Run `function` in a write transaction: all of it happens, or nothing of it.

        One that `makes_room`, as every `durable` one is taken to do, may use the space set aside,
        and is then run a second time. While that space is spent, other transactions are refused.

        A caller that is cancelled here cannot know which; the transaction still ends by itself.

        Raises:
            NoSpaceError: the disk is full; nothing of it happened.
        """

        def work() -> T:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            if not self._reserve.fill() and not (durable or makes_room):
                raise NoSpaceError(_NO_SPACE)
            try:
                return _transact(self._connection, "BEGIN IMMEDIATE", function)
            except NoSpaceError:
                if not (durable or makes_room) or not self._reserve.spend():
                    raise
            return _transact(self._connection, "BEGIN IMMEDIATE", function)

        return await self._run(work)

    async def close(self) -> None:
        """Check-point and close. Waits for what runs."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _open(path: Path, reserve: Reserve) -> sqlite3.Connection:
    try:
        connection = _connect(path)
    except NoSpaceError:
        if not reserve.spend():
            raise
        return _connect(path)
    reserve.fill()
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                connection.execute(setting)
            connection.row_factory = sqlite3.Row
            schema.migrate(connection)
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise CorruptDatabaseError(verdict)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _CORRUPT:
            raise CorruptDatabaseError(str(error)) from error
        _refuse_full_disk(error)
        if code in _REFUSED:
            raise ConfigError(f"root: cannot write {path}: {error}") from error
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
        _refuse_full_disk(error)
        raise
    return result


def _refuse_full_disk(error: BaseException) -> None:
    """Raise `NoSpaceError` in place of an `error` that says so. The file that connections share
    has a code of its own for it."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
        raise NoSpaceError(_NO_SPACE) from error
