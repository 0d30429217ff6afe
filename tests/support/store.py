"""What a daemon's store holds, while the daemon may be changing it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


def walk(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All that is below `top`, links not followed. What goes away meanwhile is left out. What is
    moved to the trash is seen: the trash comes after all that things are moved from."""
    for folder, folders, names in os.walk(top, onerror=_unless_gone):
        folders.sort()
        for name in [*folders, *names]:
            path = Path(folder, name)
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            yield path, info


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | PermissionError):
        raise error


def named(top: Path, name: str) -> list[Path]:
    """All that has this name below `top`."""
    return [path for path, _ in walk(top) if path.name == name]


class Contents(NamedTuple):
    """Everything that could be left behind."""

    rows: Mapping[str, int]
    """Number of rows of each table of the metadata; of `totals`, what they add up to."""
    files: Mapping[str, int]
    """Size of each file beside the database, by path; of a directory, -1."""


def contents(root: Path) -> Contents:
    return Contents(_rows(root / "metadata.db"), _files(root))


_HISTORY = {"pull_counts", "pull_reports"}
"""What was pulled is told after its images are gone."""


def _rows(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        counted = {"totals": "coalesce(sum(bytes + inodes), 0)"}
        return {
            name: connection.execute(
                f'SELECT {counted.get(name, "count(*)")} FROM "{name}"'
            ).fetchone()[0]
            for (name,) in tables
            if name not in _HISTORY
        }
    finally:
        connection.close()


def _files(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): -1 if stat.S_ISDIR(info.st_mode) else info.st_size
        for path, info in walk(root)
        if not path.name.startswith("metadata.db")
    }
