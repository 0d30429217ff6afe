"""What a daemon's store holds, to be compared before and after."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Contents(NamedTuple):
    """Everything that could be left behind."""

    rows: Mapping[str, int]
    """Number of rows of each table of the metadata."""
    files: Mapping[str, int]
    """Size of each file beside the database, by path; of a directory, -1."""


def contents(root: Path) -> Contents:
    return Contents(_rows(root / "metadata.db"), _files(root))


def _rows(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for (name,) in tables
        }
    finally:
        connection.close()


def _files(root: Path) -> dict[str, int]:
    found = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder) / name
            if not name.startswith("metadata.db"):
                is_folder = path.is_dir() and not path.is_symlink()
                found[str(path.relative_to(root))] = -1 if is_folder else path.lstat().st_size
    return found
