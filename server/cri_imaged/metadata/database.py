"""The metadata database: one SQLite file in WAL mode, used by one thread.

Two kinds of commit. An ordinary one is atomic and survives a process crash at once, and a power
cut once the write-ahead log reaches the disk (`synchronous=NORMAL`). A `durable` one has reached
the disk when it returns (`synchronous=FULL`): deletions and durability marks need that.

On a full disk ordinary transactions fail. Those that make room have space set aside for them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cri_imaged.errors import ConfigError, DiskFailedError, InUseError, NoSpaceError
from cri_imaged.limits import KIB, MIB
from cri_imaged.metadata import schema
from cri_imaged.metadata.reserve import Reserve
from cri_imaged.private import close_to_others
from cri_imaged.threads import Threads

T = TypeVar("T")

CACHED_BYTES = 16 * MIB
"""Of the database's pages that are kept in memory, as far as there are any; 1,000 images take some
4 MiB. With SQLite's 2 MiB all that is done for an image took twice as long among 10,000."""

_SETTINGS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA temp_store=MEMORY",
    f"PRAGMA cache_size=-{CACHED_BYTES // KIB}",
)


_NO_SPACE = "no space left for the metadata database; make room"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class CorruptDatabaseError(sqlite3.DatabaseError):
    """What is in the database file is no sound database. (A disk that fails says other things.)"""


class Database:
    """Runs functions over the connection, one at a time, off the event loop."""

    def __init__(self, db: sqlite3.Connection, thread: Threads, reserve: Reserve) -> None:
        self._db = db
        self._durable: bool | None = None
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
        thread = Threads(1, "metadata")
        space = Reserve(path.with_name(f"{path.name}-reserve"), reserve)
        try:
            db = await thread.run(lambda: _open(path, space))
        except BaseException:
            thread.close()
            raise
        return cls(db, thread, space)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` in a read transaction and return its result."""
        return await self._thread.run(lambda: _transact(self._db, "BEGIN", function))

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
            DiskFailedError: the file system is read-only, or the disk fails; nor did it.
            InUseError: another process holds the database; nor did it.
        """

        def work() -> T:
            if durable is not self._durable:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            if not self._reserve.fill() and not (durable or makes_room):
                raise NoSpaceError(_NO_SPACE)
            try:
                return _transact(self._db, "BEGIN IMMEDIATE", function)
            except NoSpaceError:
                if not (durable or makes_room) or not self._reserve.spend():
                    raise
            return _transact(self._db, "BEGIN IMMEDIATE", function)

        return await self._thread.run(work)

    async def close(self) -> None:
        """Check-point and close. Waits for what runs."""
        await self._thread.run(self._db.close)
        self._thread.close()


def _open(path: Path, reserve: Reserve) -> sqlite3.Connection:
    try:
        db = _connect(path)
    except NoSpaceError:
        if not reserve.spend():
            raise
        return _connect(path)
    reserve.fill()
    return db


def _connect(path: Path) -> sqlite3.Connection:
    try:
        _close_to_others(path)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                db.execute(setting)
            db.row_factory = sqlite3.Row
            schema.migrate(db)
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise CorruptDatabaseError(verdict)
        except BaseException:
            db.close()
            raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _CORRUPT:
            raise CorruptDatabaseError(str(error)) from error
        if code in _REFUSED:
            raise ConfigError(f"root: cannot write {path}: {error}") from error
        _told_of_disk(error)
        raise
    return db


def _close_to_others(path: Path) -> None:
    """SQLite gives its other files the mode of the database."""
    with contextlib.suppress(OSError):  # who may not open it is told so below
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for file in path.parent.glob(f"{path.name}*"):
            close_to_others(file)


def _transact(db: sqlite3.Connection, begin: str, function: Callable[[sqlite3.Connection], T]) -> T:
    try:
        db.execute(begin)
        result = function(db)
        db.execute("COMMIT")
    except BaseException as error:
        if db.in_transaction:  # a full disk ends it
            db.execute("ROLLBACK")
        _told_of_disk(error)
        raise
    return result


def _told_of_disk(error: BaseException) -> None:
    """Raise `NoSpaceError`, `DiskFailedError` or `InUseError` in place of an `error` that says so.
    The file that connections share has a code of its own for a full disk."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
        raise NoSpaceError(_NO_SPACE) from error
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise InUseError(
            f"the metadata database cannot be written: {error} by another process; end what has "
            "it open, or try again"
        ) from error
    if code & 0xFF in (sqlite3.SQLITE_IOERR, *_REFUSED):
        raise DiskFailedError(
            f"the metadata database cannot be written: {error}; mend the disk under root"
        ) from error
