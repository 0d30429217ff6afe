"""Rows on pulls that are over: how many there were, and reports on the last ones. They hold
nothing, and outlive the images that they speak of."""

from __future__ import annotations

import sqlite3

from cri_imaged.ports import PullCount


def count(db: sqlite3.Connection, pull: PullCount) -> None:
    """Add pulls to those that were counted before."""
    db.execute(
        "INSERT INTO pull_counts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " pulls = pulls + excluded.pulls, fetched = fetched + excluded.fetched,"
        " bytes = bytes + excluded.bytes, last = excluded.last",
        (
            pull.name,
            pull.handler,
            pull.image_id,
            pull.pulls,
            pull.fetched,
            pull.bytes,
            pull.first,
            pull.last,
        ),
    )


def add_report(db: sqlite3.Connection, name: str, image_id: str, report: bytes) -> None:
    """Keep a report, in whatever form."""
    db.execute(
        "INSERT INTO pull_reports (name, image_id, report) VALUES (?, ?, ?)",
        (name, image_id, report),
    )


def forget(db: sqlite3.Connection, *, counts: int, reports: int) -> None:
    """Keep so many of each, the newest."""
    db.execute(
        "DELETE FROM pull_counts WHERE last < ("
        " SELECT last FROM pull_counts ORDER BY last DESC LIMIT 1 OFFSET ?)",
        (counts - 1,),
    )
    db.execute(
        "DELETE FROM pull_reports WHERE id <= (SELECT max(id) FROM pull_reports) - ?", (reports,)
    )


_OF = "WHERE ?1 IS NULL OR name = ?1 OR (image_id != '' AND image_id = ?2)"


def counts(db: sqlite3.Connection, name: str | None, image_id: str) -> list[PullCount]:
    """Those of a name, and of an image by whatever name, newest first; all where `name` is None."""
    rows = db.execute(f"SELECT * FROM pull_counts {_OF} ORDER BY last DESC", (name, image_id))
    return [PullCount(*row) for row in rows]


def reports(
    db: sqlite3.Connection, name: str | None, image_id: str, limit: int, most_bytes: int
) -> list[bytes]:
    """As `counts`, at most `limit` reports, and so many bytes of them."""
    rows = db.execute(
        "SELECT report FROM (SELECT id, report, sum(length(report)) OVER (ORDER BY id DESC) AS all_"
        f" FROM pull_reports {_OF}) WHERE all_ <= ?4 ORDER BY id DESC LIMIT ?3",
        (name, image_id, limit, most_bytes),
    )
    return [row["report"] for row in rows]
