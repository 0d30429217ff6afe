"""What a store is found in: of a newer version, corrupt, with parts removed by hand, in use."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cri_imaged.trash import remove_tree
from tests.support import oracle
from tests.support.images import sha256
from tests.support.killpoints import Order
from tests.support.loopfs import LoopFileSystem
from tests.support.process import wait_until
from tests.support.store import contents
from tests.survival.conftest import Scratch
from tests.survival.store import Store
from tests.survival.victim import Source, Victim

pytestmark = pytest.mark.real


@pytest.fixture(params=["overlay", "native", "erofs"])
def store(request: pytest.FixtureRequest, scratch: Scratch, source: Source) -> Iterator[Store]:
    yield from _store(scratch, source, request.param)


@pytest.fixture
def overlay(scratch: Scratch, source: Source) -> Iterator[Store]:
    """For what does not depend on the snapshotter."""
    yield from _store(scratch, source, "overlay")


def _store(scratch: Scratch, source: Source, snapshotter: str) -> Iterator[Store]:
    victim = Victim(scratch("damage"), snapshotter=snapshotter)
    try:
        yield Store(victim, source)
    finally:
        if victim.process.running:
            victim.kill()


# --- the database -----------------------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_alone(overlay: Store) -> None:
    overlay.victim.stop()
    with closing(sqlite3.connect(overlay.database)) as connection:
        connection.execute("PRAGMA user_version = 4711")
    before = overlay.database.read_bytes()
    overlay.victim.launch()
    wait_until(lambda: not overlay.victim.process.running, "the daemon refuses")
    assert overlay.victim.process.stop() != 0
    assert "schema version 4711" in overlay.victim.log()
    assert overlay.database.read_bytes() == before
    assert not list(overlay.victim.root.glob("metadata.db.damaged*"))


def scribble(database: Path) -> None:
    data = bytearray(database.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    database.write_bytes(data)


def truncate(database: Path) -> None:
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])


def no_database_at_all(database: Path) -> None:
    database.write_bytes(b"these are not the pages you are looking for" * 200)


@pytest.mark.parametrize("damage", [scribble, truncate, no_database_at_all])
def test_a_corrupt_database_is_set_aside_and_rebuilt(
    overlay: Store, damage: Callable[[Path], None]
) -> None:
    """Images come back under their IDs without the registry, and under their names with it, for
    which no layer is fetched again."""
    overlay.victim.stop()
    damage(overlay.database)
    spoilt = overlay.database.read_bytes()
    overlay.victim.start()
    assert overlay.shown_whole() == overlay.ids
    (aside,) = overlay.victim.root.glob("metadata.db.damaged-*")
    assert aside.read_bytes() == spoilt
    errors = [line for line in overlay.victim.log_lines() if line["level"] == "error"]
    assert any(str(aside) == line.get("set_aside") for line in errors)
    overlay.source.registry.seen.clear()
    overlay.pull_all()
    assert overlay.fetched() == set()
    assert overlay.shown_whole() == overlay.ids
    for reference in overlay.references:
        assert overlay.victim.image(reference) is not None


@pytest.mark.parametrize(
    "point",
    [
        "snapshots are reaped",
        "a blob's row is written",
        "a snapshot is committed",
        "an image is saved but not committed",
    ],
)
def test_a_crash_while_salvaging_loses_nothing(overlay: Store, point: str) -> None:
    overlay.victim.stop()
    no_database_at_all(overlay.database)
    overlay.victim.obey(Order(point))
    overlay.victim.launch()
    overlay.victim.await_death(point)
    overlay.victim.start()
    assert overlay.shown_whole() == overlay.ids


def test_blobs_that_are_damaged_too_are_not_salvaged(overlay: Store) -> None:
    overlay.victim.stop()
    no_database_at_all(overlay.database)
    path = overlay.blob(sha256(overlay.samples[2].image.layers[-1].blob))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    overlay.victim.start()
    assert overlay.shown_whole() == {sample.image.id for sample in overlay.samples[:2]}
    overlay.pull_all()
    assert overlay.shown_whole() == overlay.ids


def test_a_disk_that_fails_is_no_corrupt_database(scratch: Scratch, source: Source) -> None:
    """The daemon gives up, and does not begin a new store beside the one that it cannot read."""
    victim = Victim(scratch("failing"), image_options='disk_reserve = "0"')
    image = victim.directory / "disk.img"
    with LoopFileSystem(image, victim.root, megabytes=64, options="commit=1") as disk:
        store = Store(victim, source)
        victim.stop()
        disk.cut_power()
        victim.launch()
        wait_until(lambda: not victim.process.running, "the daemon gives up")
        assert victim.process.stop() != 0
        disk.restart()
        victim.start()
        assert store.shown_whole() == store.ids
        assert not list(victim.root.glob("metadata.db.damaged*"))
        victim.stop()


# --- files removed by hand ----------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False])
def test_a_snapshot_removed_by_hand_comes_back(store: Store, running: bool) -> None:
    if not running:
        store.victim.stop()
    remove_tree(store.snapshots()[0])
    if not running:
        store.victim.start()
    store.source.registry.seen.clear()
    store.pull_all()
    assert store.shown_whole() == store.ids
    assert store.fetched() == set()


@pytest.mark.parametrize("running", [True, False])
def test_a_blob_removed_by_hand_comes_back(overlay: Store, running: bool) -> None:
    store = overlay
    if not running:
        store.victim.stop()
    gone = [sha256(store.samples[2].image.layers[n].blob) for n in (0, 3)]
    for digest in gone:
        store.blob(digest).unlink()
    if not running:
        store.victim.start()
    store.source.registry.seen.clear()
    store.pull_all()
    assert store.fetched() == set(gone)
    assert store.shown_whole() == store.ids
    assert all(store.blob(digest).exists() for digest in gone)


def test_both_removed_by_hand_come_back(store: Store) -> None:
    for path in store.snapshots():
        remove_tree(path)
    for path in (store.victim.root / "content/blobs").glob("*/*"):
        path.unlink()
    store.pull_all()
    assert store.shown_whole() == store.ids


def test_what_is_damaged_is_not_given_out(store: Store) -> None:
    """After a start no image is shown whose snapshot is gone; those that can be are rebuilt."""
    store.victim.stop()
    for path in store.snapshots()[1:]:
        remove_tree(path)
    store.victim.start()
    wait_until(lambda: store.shown_whole() == store.ids, "all images are rebuilt")


def test_bits_that_rotted_are_found_and_mended(store: Store) -> None:
    """In a blob and in a snapshot's file: check says so, --repair mends it, and says so."""
    blob = store.blob(sha256(store.samples[1].image.layers[1].blob))
    flip(blob)
    top = store.snapshots()[-1]
    files = [top] if top.is_file() else top.rglob("f*")
    flip(max(files, key=lambda path: path.lstat().st_size))
    found = store.victim.cli("check", check=False)
    assert found.returncode != 0
    assert blob.name in found.stdout
    assert "snapshot" in found.stdout
    assert store.victim.cli("check", "--repair", check=False).returncode == 0
    assert store.shown_whole() == store.ids
    again = store.victim.cli("check", check=False)
    assert again.returncode == 0, again.stdout


def flip(path: Path) -> None:
    """Change one bit, and nothing that shows from outside."""
    info = path.stat()
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(data) // 2)
        file.write(bytes([data[len(data) // 2] ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


# --- in use ---------------------------------------------------------------------------------------


def test_a_mounted_image_survives_its_removal_and_a_kill(store: Store) -> None:
    sample, reference = store.samples[2], store.references[2]
    with oracle.mounted(store.victim, reference) as root:
        store.victim.remove(reference)
        oracle.collect(store.victim)
        store.victim.kill()
        store.victim.start()
        oracle.collect(store.victim)
        assert sample.image.id not in store.shown_whole()
        store.oracle.compare(sample.image.id, root)
        assert store.victim.pull(reference) == sample.image.id
        store.victim.remove(reference)
    for each in store.victim.images():
        store.victim.remove(each.id)
    oracle.collect(store.victim)
    left = contents(store.victim.root)
    assert {name: n for name, n in left.rows.items() if n and name != "epoch"} == {}
    assert store.snapshots() == []
