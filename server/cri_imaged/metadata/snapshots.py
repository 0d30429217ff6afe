"""Rows of snapshots. Each function runs inside a transaction of its caller's."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from cri_imaged.errors import NotFoundError
from cri_imaged.metadata import leases, provenance
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease, Provenance, Skipped, SnapshotInfo, Usage

EMPTY_CHAIN = ""
"""The chain of no layers: its snapshot is an empty one, made when first viewed."""


def insert_active(db: sqlite3.Connection, snapshotter: str, key: str, lease: Lease) -> int:
    """Begin a snapshot under `key`, held by `lease`.

    Raises:
        NotFoundError: the lease has ended.
    """
    snapshot = _insert(
        db,
        "INSERT INTO snapshots (snapshotter, key, created) VALUES (?, ?, ?)",
        (snapshotter, key, time.time()),
    )
    _hold(db, snapshot, lease)
    return snapshot


def insert_empty(db: sqlite3.Connection, snapshotter: str) -> int:
    """The snapshot of no layers, made known where it is not."""
    present = committed(db, snapshotter, EMPTY_CHAIN)
    if present is not None:
        return present
    return _insert(
        db,
        "INSERT INTO snapshots (snapshotter, chain_id, inodes, created) VALUES (?, ?, 1, ?)",
        (snapshotter, EMPTY_CHAIN, time.time()),
    )


def active(db: sqlite3.Connection, snapshotter: str, key: str) -> int | None:
    """The row of the unfinished snapshot `key`."""
    return _id(db, "snapshotter = ? AND key = ?", (snapshotter, key))


def committed(db: sqlite3.Connection, snapshotter: str, chain_id: str) -> int | None:
    """The row of the committed snapshot `chain_id`; a lost one has no chain."""
    return _id(db, "snapshotter = ? AND chain_id = ?", (snapshotter, chain_id))


def require_committed(db: sqlite3.Connection, snapshotter: str, chain_id: str) -> int:
    """As `committed`. Raises `NotFoundError`."""
    snapshot = committed(db, snapshotter, chain_id)
    if snapshot is None:
        raise NotFoundError(f"{snapshotter} snapshot {chain_id} does not exist")
    return snapshot


def hold(db: sqlite3.Connection, snapshotter: str, chain_id: Digest, lease: Lease) -> bool:
    """Let `lease` hold a committed snapshot. Returns whether there is one."""
    snapshot = committed(db, snapshotter, chain_id)
    if snapshot is None:
        return False
    _hold(db, snapshot, lease)
    return True


def hold_chain(
    db: sqlite3.Connection, snapshotter: str, chain: Sequence[Digest], lease: Lease
) -> list[SnapshotInfo]:
    """Let `lease` hold those of `chain` (lowest first) that are committed; what is known of them.
    Where one is, all below it are."""
    found = [known for each in chain if (known := info(db, snapshotter, each))]
    if found:
        hold(db, snapshotter, found[-1].chain_id, lease)
    return found


def _hold(db: sqlite3.Connection, snapshot: int, lease: Lease) -> None:
    leases.insert(db, lease)
    db.execute(
        "INSERT OR IGNORE INTO lease_snapshots (lease, snapshot) VALUES (?, ?)",
        (lease.id, snapshot),
    )


def stack(db: sqlite3.Connection, snapshot: int) -> list[int]:
    """The rows of a committed snapshot and of its parents, topmost first."""
    rows = db.execute(
        "WITH RECURSIVE stack(id, parent, depth) AS ("
        " SELECT id, parent, 0 FROM snapshots WHERE id = ?"
        " UNION ALL SELECT s.id, s.parent, depth + 1 FROM snapshots s JOIN stack"
        " ON s.id = stack.parent) SELECT id FROM stack ORDER BY depth",
        (snapshot,),
    )
    return [row[0] for row in rows]


def given_out(db: sqlite3.Connection, snapshotter: str) -> list[int]:
    """The rows of what stands under views and under what runtimes have mounted."""
    rows = db.execute(
        "WITH RECURSIVE given(id) AS ("
        " SELECT snapshot FROM views WHERE snapshotter = ?"
        " UNION SELECT snapshot FROM runtime_snapshots WHERE snapshotter = ?"
        "  AND NOT adopted AND kind != 'committed' AND snapshot IS NOT NULL"
        " UNION SELECT s.parent FROM snapshots s JOIN given ON s.id = given.id"
        "  WHERE s.parent IS NOT NULL) SELECT id FROM given",
        (snapshotter, snapshotter),
    )
    return [row[0] for row in rows]


def commit(
    db: sqlite3.Connection,
    snapshot: int,
    chain_id: Digest,
    parent: int | None,
    usage: Usage,
    skipped: Skipped,
) -> int:
    """Name the unfinished `snapshot` `chain_id`. Returns the row that bears the name: `snapshot`,
    or one that had it already; then what holds `snapshot` holds that one too, and the row of
    `snapshot` is gone.

    Raises:
        NotFoundError: the snapshot or its parent was removed meanwhile.
    """
    row = db.execute(
        "SELECT snapshotter FROM snapshots WHERE id = ? AND key IS NOT NULL", (snapshot,)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"the unfinished snapshot of {chain_id} was removed")
    present = committed(db, row[0], chain_id)
    if present is not None:
        give_way(db, snapshot, present)
        return present
    counts = {kind: count for kind, count in asdict(skipped).items() if count}
    try:
        db.execute(
            "UPDATE snapshots SET chain_id = ?, key = NULL, parent = ?, bytes = ?, inodes = ?,"
            " skipped = ?, durable = 0 WHERE id = ?",
            (chain_id, parent, usage.bytes, usage.inodes, json.dumps(counts), snapshot),
        )
    except sqlite3.IntegrityError as error:
        raise NotFoundError(f"the parent of snapshot {chain_id} was removed") from error
    return snapshot


def give_way(db: sqlite3.Connection, snapshot: int, present: int) -> None:
    """Drop an unfinished snapshot whose chain is there already; its leases hold that one now."""
    db.execute(
        "INSERT OR IGNORE INTO lease_snapshots"
        " SELECT lease, ? FROM lease_snapshots WHERE snapshot = ?",
        (present, snapshot),
    )
    db.execute("DELETE FROM snapshots WHERE id = ?", (snapshot,))


def delete_active(db: sqlite3.Connection, snapshotter: str, key: str) -> None:
    """Delete the unfinished snapshot `key`."""
    db.execute("DELETE FROM snapshots WHERE snapshotter = ? AND key = ?", (snapshotter, key))


def delete_all_active(db: sqlite3.Connection, snapshotter: str) -> None:
    """Delete every unfinished snapshot: none outlives the process that began it."""
    db.execute("DELETE FROM snapshots WHERE snapshotter = ? AND key IS NOT NULL", (snapshotter,))


def lose(db: sqlite3.Connection, snapshots: Iterable[int]) -> None:
    """Snapshots are lost, and so is every one that stands on them: free their chain IDs."""
    db.executemany(
        "WITH RECURSIVE above(id) AS (VALUES (?)"
        " UNION SELECT snapshots.id FROM snapshots JOIN above ON snapshots.parent = above.id)"
        " UPDATE snapshots SET chain_id = NULL, durable = 0 WHERE id IN (SELECT id FROM above)"
        " AND key IS NULL",
        [(snapshot,) for snapshot in snapshots],
    )


def every(db: sqlite3.Connection, snapshotter: str) -> dict[int, str | None]:
    """Every snapshot that is not unfinished: row number to chain, None where it was lost."""
    rows = db.execute(
        "SELECT id, chain_id FROM snapshots WHERE snapshotter = ? AND key IS NULL", (snapshotter,)
    )
    return {row[0]: row[1] for row in rows}


def all_ids(db: sqlite3.Connection, snapshotter: str) -> set[int]:
    """The rows of every snapshot, finished or not."""
    rows = db.execute("SELECT id FROM snapshots WHERE snapshotter = ?", (snapshotter,))
    return {row[0] for row in rows}


def existing(db: sqlite3.Connection, snapshots: Sequence[int]) -> set[int]:
    """Those of `snapshots` that still have a row."""
    return {snapshot for snapshot in snapshots if _id(db, "id = ?", (snapshot,)) is not None}


def info(db: sqlite3.Connection, snapshotter: str, chain_id: str) -> SnapshotInfo | None:
    """A committed snapshot."""
    row = db.execute(f"{_INFO} AND s.chain_id = ?", (snapshotter, chain_id)).fetchone()
    return _snapshot_info(row, provenance.of(db, row["id"])) if row else None


def walk(db: sqlite3.Connection, snapshotter: str) -> list[SnapshotInfo]:
    """Every committed snapshot, parents before their children."""
    rows = db.execute(f"{_INFO} AND s.chain_id != '' ORDER BY s.id", (snapshotter,)).fetchall()
    found = {row["chain_id"]: _snapshot_info(row, provenance.of(db, row["id"])) for row in rows}
    ordered: dict[str, SnapshotInfo] = {}
    for snapshot in found.values():
        line = []
        chain: str | None = snapshot.chain_id
        while chain and chain not in ordered:
            line.append(chain)
            chain = found[chain].parent
        ordered.update((chain, found[chain]) for chain in reversed(line))
    return list(ordered.values())


def skipped(db: sqlite3.Connection, snapshotter: str, chain_id: Digest) -> Skipped:
    """What a committed snapshot and those below it lack; nothing where there is none."""
    snapshot = committed(db, snapshotter, chain_id)
    found = Skipped()
    for row in stack(db, snapshot) if snapshot is not None else ():
        (counts,) = db.execute("SELECT skipped FROM snapshots WHERE id = ?", (row,)).fetchone()
        found += Skipped(**json.loads(counts))
    return found


_INFO = (
    "SELECT s.id, s.chain_id, p.chain_id AS parent, s.bytes, s.inodes, s.skipped"
    " FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent"
    " WHERE s.snapshotter = ? AND s.chain_id IS NOT NULL"
)


def _insert(db: sqlite3.Connection, statement: str, values: Sequence[object]) -> int:
    row: int | None = db.execute(statement, values).lastrowid
    if row is None:
        raise sqlite3.DatabaseError("an insertion gave no row number")
    return row


def _id(db: sqlite3.Connection, where: str, values: Sequence[object]) -> int | None:
    row = db.execute(f"SELECT id FROM snapshots WHERE {where}", values).fetchone()
    return row[0] if row else None


def _snapshot_info(row: sqlite3.Row, made_of: tuple[Provenance, ...]) -> SnapshotInfo:
    return SnapshotInfo(
        chain_id=Digest(row["chain_id"]),
        parent=Digest(row["parent"]) if row["parent"] else None,
        usage=Usage(row["bytes"], row["inodes"]),
        skipped=Skipped(**json.loads(row["skipped"])),
        provenance=made_of,
    )
