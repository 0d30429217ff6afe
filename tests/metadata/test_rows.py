"""Leases by age and size, images by name, and what makes an image ready."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cri_imaged.metadata import (
    blobs,
    durability,
    images,
    leases,
    provenance,
    readiness,
    schema,
    snapshots,
    views,
)
from cri_imaged.metadata.durability import Volatile
from cri_imaged.metadata.garbage import sweep
from cri_imaged.metadata.images import NewImage
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_MANIFEST
from cri_imaged.ports import Lease, Provenance, Skipped, Usage

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys=ON")
    schema.migrate(connection)
    yield connection
    connection.close()


def lease(db: sqlite3.Connection, *held: Digest, size: int = 10) -> Lease:
    opened = leases.new()
    leases.insert(db, opened)
    for digest in held:
        blobs.insert(db, digest, size, opened)
    return opened


def kinds(db: sqlite3.Connection) -> dict[str, str]:
    return {row["id"]: row["kind"] for row in db.execute("SELECT * FROM leases")}


def age(db: sqlite3.Connection, which: Lease, seconds: float) -> None:
    db.execute("UPDATE leases SET created = created - ? WHERE id = ?", (seconds, which.id))


def snapshot(
    db: sqlite3.Connection, name: bytes, parent: int | None = None, held_by: Lease | None = None
) -> tuple[int, Digest]:
    holder = held_by or lease(db)
    number = snapshots.insert_active(db, "native", name.hex(), holder)
    chain = Digest.of(name)
    assert snapshots.commit(db, number, chain, parent, Usage(5, 1), Skipped()) == number
    if held_by is None:
        leases.end(db, holder, keep_for_resume=False)
    return number, chain


def image(
    db: sqlite3.Connection,
    name: str = "docker.io/library/a:1",
    chain: Digest | None = None,
    handler: str = "",
    image_id: Digest = A,
    target: Digest = B,
) -> NewImage:
    """An image whose config, target and manifest are there."""
    for digest in (image_id, target, B):
        blobs.insert(db, digest, 10, None)
    new = NewImage(
        image_id=image_id,
        handler=handler,
        names=(str(image_id), name),
        target=Descriptor(OCI_MANIFEST, target, 10),
        manifest=B,
        documents=frozenset({image_id, target, B}),
        layers=frozenset(),
        size=20,
        user="1000",
        snapshotter="native",
        chain_id=chain,
    )
    images.save(db, new)
    return new


# --- leases ----------------------------------------------------------------------------------


def test_a_lease_ends_with_its_pull_or_waits_to_be_resumed(db: sqlite3.Connection) -> None:
    done, failed, empty = lease(db, A), lease(db, A, B), lease(db)
    leases.end(db, done, keep_for_resume=False)
    leases.end(db, failed, keep_for_resume=True)
    leases.end(db, empty, keep_for_resume=True)
    assert kinds(db) == {failed.id: "resume"}
    assert sweep(db).blobs == ()


def test_a_lease_that_is_at_work_is_left_alone(db: sqlite3.Connection) -> None:
    working = lease(db)
    held = lease(db, A)
    leases.end(db, held, keep_for_resume=True)
    leases.expire(db, max_seconds=0)
    leases.shrink(db, max_bytes=0)
    assert kinds(db) == {working.id: "pull"}


def test_what_a_daemon_that_died_was_at_work_on_may_be_resumed(db: sqlite3.Connection) -> None:
    held, empty = lease(db, A), lease(db)
    age(db, held, 1e6)
    leases.inherit(db)
    assert kinds(db) == {held.id: "resume"}
    leases.expire(db, max_seconds=1000)
    assert empty.id not in kinds(db)
    assert kinds(db) == {held.id: "resume"}, "its age counts from the start"


def test_resume_leases_expire_by_age(db: sqlite3.Connection) -> None:
    old, new = lease(db, A), lease(db, B)
    for each in (old, new):
        leases.end(db, each, keep_for_resume=True)
    age(db, old, 100)
    leases.expire(db, max_seconds=50)
    assert kinds(db) == {new.id: "resume"}
    assert sweep(db).blobs == (A,)


def test_the_oldest_go_until_the_rest_fits(db: sqlite3.Connection) -> None:
    held = [lease(db, digest, size=10) for digest in (A, B, C)]
    for number, each in enumerate(held):
        leases.end(db, each, keep_for_resume=True)
        age(db, each, 100 - number)
    leases.shrink(db, max_bytes=20)
    assert set(kinds(db)) == {held[1].id, held[2].id}
    leases.shrink(db, max_bytes=20)
    assert set(kinds(db)) == {held[1].id, held[2].id}


def test_a_blob_is_held_whatever_its_state(db: sqlite3.Connection) -> None:
    holder = lease(db, A)
    blobs.lost(db, [A])
    blobs.unneeded(db, B, 7)
    assert blobs.hold(db, B, holder) == blobs.find(db, B)
    assert blobs.hold(db, C, holder) is None
    assert sweep(db).blobs == ()


def test_a_lost_blob_that_comes_back_is_not_durable_yet(db: sqlite3.Connection) -> None:
    blobs.insert(db, A, 10, None)
    durability.mark(db, durability.volatile(db))
    assert not durability.volatile(db)
    blobs.lost(db, [A])
    assert not durability.volatile(db), "what is lost need not reach the disk"
    blobs.insert(db, A, 10, None)
    assert durability.volatile(db) == Volatile(frozenset({A}))


# --- images ----------------------------------------------------------------------------------


def test_one_transaction_makes_an_image_known(db: sqlite3.Connection) -> None:
    _, chain = snapshot(db, b"layer")
    image(db, chain=chain)
    (record,) = readiness.all_ready(db)
    assert record == readiness.find(db, A, "")
    assert (record.image_id, record.manifest, record.chain_id) == (A, B, chain)
    assert sorted(record.names) == sorted([str(A), "docker.io/library/a:1"])
    assert (record.size, record.user) == (20, "1000")
    garbage = sweep(db)
    assert (garbage.blobs, garbage.snapshots) == ((), {})


def test_an_image_needs_its_content(db: sqlite3.Connection) -> None:
    new = image(db)
    with pytest.raises(sqlite3.IntegrityError):
        images.save(db, replace(new, layers=frozenset({C})))
    with pytest.raises(sqlite3.IntegrityError, match="not committed"):
        images.save(db, replace(new, chain_id=C))


def test_a_tag_moves(db: sqlite3.Connection) -> None:
    image(db, "docker.io/library/a:1")
    image(db, "docker.io/library/a:1", image_id=C, target=Digest.of(b"other"))
    records = {record.image_id: set(record.names) for record in readiness.all_ready(db)}
    assert records == {A: {str(A)}, C: {str(C), "docker.io/library/a:1"}}
    assert images.owners(db, ["docker.io/library/a:1", str(A)], "") == {A, C}


def test_an_image_goes_with_all_its_names(db: sqlite3.Connection) -> None:
    _, chain = snapshot(db, b"layer")
    image(db, "docker.io/library/a:1", chain)
    image(db, "docker.io/library/a:2", chain)
    (record,) = readiness.all_ready(db)
    assert len(record.names) == 3
    images.remove(db, A, "")
    garbage = sweep(db)
    assert set(garbage.blobs) == {A, B}
    assert len(garbage.snapshots["native"]) == 1
    assert garbage.bytes == 25


def test_one_image_for_two_handlers(db: sqlite3.Connection) -> None:
    image(db, handler="")
    image(db, handler="vm")
    assert {record.handler for record in readiness.all_ready(db)} == {"", "vm"}
    images.remove(db, A, "vm")
    assert [record.handler for record in readiness.all_ready(db)] == [""]
    assert sweep(db).blobs == ()


def test_what_a_name_stood_for_last_whoever_pulled_it(db: sqlite3.Connection) -> None:
    name = "docker.io/library/a:1"
    assert images.meant(db, name) is None
    for handler, target in (("", B), ("vm", C), ("", A)):
        new = image(db, name, handler=handler, target=target)
        blobs_of = {**dict.fromkeys(new.layers, True), **dict.fromkeys(new.documents, False)}
        assert images.meant(db, name) == (new.target, blobs_of)
    assert images.meant(db, name + "0") is None


def test_two_manifests_that_share_a_config_are_one_image(db: sqlite3.Connection) -> None:
    image(db, "docker.io/library/a:1", target=B)
    image(db, "docker.io/library/a:2", target=Digest.of(b"index"))
    (record,) = readiness.all_ready(db)
    assert {name for name in record.names if ":" in name[-2:]} == {
        "docker.io/library/a:1",
        "docker.io/library/a:2",
    }
    images.remove(db, A, "")
    assert readiness.all_ready(db) == []


def test_an_image_with_a_lost_blob_is_hidden(db: sqlite3.Connection) -> None:
    image(db)
    blobs.lost(db, [B])
    assert readiness.all_ready(db) == []
    assert readiness.find(db, A, "") is None
    assert [each.image_id for each in readiness.damaged(db)] == [A]
    blobs.insert(db, B, 10, None)
    assert len(readiness.all_ready(db)) == 1


def test_a_discarded_blob_hides_nothing(db: sqlite3.Connection) -> None:
    image(db)
    durability.discard(db, [B])
    assert len(readiness.all_ready(db)) == 1


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_an_image_is_hidden_where_any_of_its_snapshots_is_lost(
    db: sqlite3.Connection, lost: int
) -> None:
    holder = lease(db)
    numbers, parent, chain = [], None, A
    for name in (b"0", b"1", b"2"):
        parent, chain = snapshot(db, name, parent, holder)
        numbers.append(parent)
    image(db, chain=chain)
    snapshots.lose(db, [numbers[lost]])
    assert readiness.all_ready(db) == []
    left = {snapshot.chain_id for snapshot in snapshots.walk(db, "native")}
    assert left == {Digest.of(b"%d" % n) for n in range(lost)}
    assert snapshots.committed(db, "native", chain) is None, "its chain ID is free"


def test_names_without_an_image_id_are_not_lost_with_another_image(db: sqlite3.Connection) -> None:
    image(db, "docker.io/library/a:1")
    images.remove(db, C, "")
    assert len(readiness.all_ready(db)) == 1


def test_what_a_view_stands_on_outlives_the_image(db: sqlite3.Connection) -> None:
    number, chain = snapshot(db, b"layer")
    image(db, chain=chain)
    views.open_view(db, "native", "view", chain, writable=False)
    images.remove(db, A, "")
    assert sweep(db).snapshots == {}
    views.delete(db, "native", "view")
    assert sweep(db).snapshots == {"native": [number]}


# --- durability ------------------------------------------------------------------------------


def test_only_finished_work_becomes_durable(db: sqlite3.Connection) -> None:
    holder = lease(db, A)
    snapshots.insert_active(db, "native", "unfinished", holder)
    number, _ = snapshot(db, b"done", held_by=holder)
    assert durability.volatile(db) == Volatile(frozenset({A}), frozenset({number}))
    durability.mark(db, durability.volatile(db))
    assert not durability.volatile(db)
    snapshots.lose(db, [number])
    assert not durability.volatile(db)


def test_a_blob_that_comes_again_is_not_durable_for_that(db: sqlite3.Connection) -> None:
    blobs.insert(db, A, 10, None)
    durability.mark(db, durability.volatile(db))
    durability.discard(db, [A])
    blobs.insert(db, A, 10, None)
    assert durability.volatile(db) == Volatile(frozenset({A}))


def test_the_epoch_is_the_last_one_that_was_set(db: sqlite3.Connection) -> None:
    assert durability.epoch(db) is None
    durability.set_epoch(db, "one")
    durability.set_epoch(db, "two")
    assert durability.epoch(db) == "two"


def test_times_are_seconds(db: sqlite3.Connection) -> None:
    before = time.time()
    lease(db)
    (row,) = db.execute("SELECT created FROM leases").fetchall()
    assert before <= row["created"] <= time.time()


# --- provenance ------------------------------------------------------------------------------


def test_the_newest_ways_to_a_snapshot_are_kept(db: sqlite3.Connection) -> None:
    """Whoever may pull can invent repositories."""
    number, _ = snapshot(db, b"layer", held_by=lease(db))
    for each in range(provenance.KEPT + 20):
        way = Provenance(A, 10, B, 20, 1, repository=f"r/{each}")
        provenance.add(db, number, way)
        provenance.add(db, number, way)
    kept = [way.repository for way in provenance.of(db, number)]
    assert kept == [f"r/{each}" for each in range(20, provenance.KEPT + 20)]
    db.execute("DELETE FROM lease_snapshots")
    garbage = sweep(db)
    assert garbage.snapshots == {"native": [number]}
    assert provenance.of(db, number) == ()
