"""What is done for one image takes as many steps of SQLite's machine however many images there
are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from cri_imaged.metadata import (
    blobs,
    durability,
    images,
    leases,
    readiness,
    schema,
    snapshots,
    totals,
)
from cri_imaged.metadata.garbage import sweep_image
from cri_imaged.metadata.images import NewImage
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_MANIFEST
from cri_imaged.ports import Skipped, Usage

FEW, MANY = 20, 2000


def digest(kind: str, number: int) -> Digest:
    return Digest.of(f"{kind} {number}".encode())


BASE = digest("base", 0)


def name(number: int) -> str:
    return f"registry.example/app{number}:1"


def add(db: sqlite3.Connection, number: int) -> None:
    """As a pull makes an image known, of a layer of its own above one that all have."""
    lease = leases.new()
    leases.insert(db, lease)
    image_id, manifest, layer = (digest(kind, number) for kind in ("image", "manifest", "layer"))
    for each in (image_id, manifest, layer, BASE):
        blobs.insert(db, each, 10, lease)
    snapshot = snapshots.insert_active(db, "native", f"key {number}", lease)
    chain_id = digest("chain", number)
    snapshots.commit(db, snapshot, chain_id, None, Usage(10, 2), Skipped())
    images.save(
        db,
        NewImage(
            image_id=image_id,
            handler="",
            names=(image_id, name(number)),
            target=Descriptor(OCI_MANIFEST, manifest, 10),
            manifest=manifest,
            documents=frozenset({image_id, manifest}),
            layers=frozenset({BASE, layer}),
            size=10,
            user="",
            snapshotter="native",
            chain_id=chain_id,
        ),
    )
    leases.end(db, lease, keep_for_resume=False)


@contextmanager
def store_of(count: int) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys=ON")
        schema.migrate(db)
        for number in range(count):
            add(db, number)
        durability.mark(db, durability.volatile(db))
        yield db


def has_base(db: sqlite3.Connection, repository: str) -> bool:
    return images.repository_has(db, f"registry.example/{repository}", BASE)


def steps(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], object]) -> int:
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    db.set_progress_handler(step, 1)
    work(db)
    db.set_progress_handler(None, 1)
    return taken


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda db: add(db, MANY + 1), id="pull"),
        pytest.param(lambda db: images.meant(db, name(3)), id="what a name meant"),
        pytest.param(lambda db: images.owners(db, [name(3)], ""), id="whom a name means"),
        pytest.param(lambda db: readiness.find(db, digest("image", 3), ""), id="refresh"),
        pytest.param(lambda db: sweep_image(db, digest("image", 3), ""), id="remove"),
        pytest.param(totals.taken, id="measure"),
        pytest.param(durability.volatile, id="sync"),
        pytest.param(lambda db: has_base(db, "app3"), id="a repository has what all have"),
        pytest.param(lambda db: has_base(db, "app"), id="another has it not"),
    ],
)
def test_one_image_takes_the_same_steps_among_few_and_among_many(
    work: Callable[[sqlite3.Connection], object],
) -> None:
    with store_of(FEW) as few, store_of(MANY) as many:
        assert steps(many, work) <= steps(few, work) * 1.15
