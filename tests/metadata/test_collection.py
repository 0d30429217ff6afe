"""Garbage is what nothing holds: the sweep against a model of what is reached."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cri_imaged.metadata import (
    blobs,
    images,
    leases,
    readiness,
    runtime_snapshots,
    schema,
    snapshots,
    totals,
    views,
)
from cri_imaged.metadata.garbage import sweep, sweep_image
from cri_imaged.metadata.images import NewImage
from cri_imaged.metadata.runtime_snapshots import Owner
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_MANIFEST
from cri_imaged.ports import Lease, Skipped, Usage

SNAPSHOTTER = "native"
RUNTIME = Owner("containerd", SNAPSHOTTER)


@dataclass
class ModelImage:
    id: Digest
    manifest: Digest
    blobs: frozenset[Digest]
    snapshot: int | None


@dataclass
class ModelLease:
    blobs: set[Digest] = field(default_factory=set)
    snapshots: set[int] = field(default_factory=set)


class Collection(RuleBasedStateMachine):
    """Names, images, blobs, snapshots, views and leases come and go; then a sweep."""

    def __init__(self) -> None:
        super().__init__()
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA foreign_keys=ON")
        schema.migrate(self.db)
        self.count = 0
        self.blobs: set[Digest] = set()
        self.active: dict[int, str] = {}
        self.committed: dict[int, tuple[Digest, int | None]] = {}
        self.lost: set[int] = set()
        self.views: dict[str, int] = {}
        self.adopted: set[int] = set()
        self.leases: dict[str, ModelLease] = {}
        self.images: dict[Digest, ModelImage] = {}
        self.names: dict[str, Digest] = {}

    def teardown(self) -> None:
        self.db.close()

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    @property
    def whole(self) -> set[int]:
        """Committed snapshots that have not been lost since."""
        return self.committed.keys() - self.lost

    @staticmethod
    def pick(data: st.DataObject, among: object) -> object:
        return data.draw(st.sampled_from(sorted(among)))  # type: ignore[call-overload]

    @initialize()
    def begin_with_what_nothing_holds(self) -> None:
        """Two blobs and a chain of three snapshots, so that few steps lead to what matters."""
        lease = leases.new()
        leases.insert(self.db, lease)
        parent = None
        for _ in range(2):
            digest = Digest.of(self.fresh("blob").encode())
            blobs.insert(self.db, digest, 1, lease)
            self.blobs.add(digest)
        for _ in range(3):
            chain = Digest.of(self.fresh("chain").encode())
            number = snapshots.insert_active(self.db, SNAPSHOTTER, self.fresh("key"), lease)
            assert number == snapshots.commit(
                self.db, number, chain, parent, Usage(1, 1), Skipped()
            )
            self.committed[number] = chain, parent
            parent = number
        leases.end(self.db, lease, keep_for_resume=False)

    # --- what comes --------------------------------------------------------------------------

    @rule()
    def open_lease(self) -> None:
        lease = Lease(self.fresh("lease"))
        leases.insert(self.db, lease)
        self.leases[lease.id] = ModelLease()

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def commit_blob(self, data: st.DataObject) -> None:
        lease = self.pick(data, self.leases)
        digest = Digest.of(self.fresh("blob").encode())
        blobs.insert(self.db, digest, 1, Lease(lease))  # type: ignore[arg-type]
        self.blobs.add(digest)
        self.leases[lease].blobs.add(digest)  # type: ignore[index]

    @precondition(lambda self: self.leases and self.blobs)
    @rule(data=st.data())
    def hold_blob(self, data: st.DataObject) -> None:
        lease, digest = self.pick(data, self.leases), self.pick(data, self.blobs)
        assert blobs.hold(self.db, digest, Lease(lease))  # type: ignore[arg-type]
        self.leases[lease].blobs.add(digest)  # type: ignore[index, arg-type]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def prepare(self, data: st.DataObject) -> None:
        lease, key = self.pick(data, self.leases), self.fresh("key")
        number = snapshots.insert_active(self.db, SNAPSHOTTER, key, Lease(lease))  # type: ignore[arg-type]
        self.active[number] = key
        self.leases[lease].snapshots.add(number)  # type: ignore[index]

    @precondition(lambda self: self.active)
    @rule(data=st.data(), on_top=st.booleans())
    def commit_snapshot(self, data: st.DataObject, on_top: bool) -> None:
        number = self.pick(data, self.active)
        parent = self.pick(data, self.whole) if on_top and self.whole else None
        chain = Digest.of(self.fresh("chain").encode())
        assert number == snapshots.commit(self.db, number, chain, parent, Usage(1, 1), Skipped())  # type: ignore[arg-type]
        del self.active[number]  # type: ignore[arg-type]
        self.committed[number] = chain, parent  # type: ignore[index, assignment]

    @precondition(lambda self: self.leases and self.whole)
    @rule(data=st.data())
    def hold_snapshot(self, data: st.DataObject) -> None:
        lease, number = self.pick(data, self.leases), self.pick(data, self.whole)
        chain = self.committed[number][0]  # type: ignore[index]
        assert snapshots.hold(self.db, SNAPSHOTTER, chain, Lease(lease))  # type: ignore[arg-type]
        self.leases[lease].snapshots.add(number)  # type: ignore[index, arg-type]

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        number, key = self.pick(data, self.whole), self.fresh("view")
        chain = self.committed[number][0]  # type: ignore[index]
        views.open_view(self.db, SNAPSHOTTER, key, chain, writable=False)
        self.views[key] = number  # type: ignore[assignment]

    @precondition(lambda self: self.blobs)
    @rule(data=st.data(), name=st.integers(0, 3), with_snapshot=st.booleans())
    def make_known(self, data: st.DataObject, name: int, with_snapshot: bool) -> None:
        held = data.draw(st.sets(st.sampled_from(sorted(self.blobs)), min_size=1, max_size=3))
        manifest = self.pick(data, held)
        number = None
        if with_snapshot and self.whole:
            number = self.pick(data, self.whole)
        image_id = Digest.of(self.fresh("image").encode())
        images.save(
            self.db,
            NewImage(
                image_id=image_id,
                handler="",
                names=(str(image_id), f"name{name}"),
                target=Descriptor(OCI_MANIFEST, Digest.of(image_id.encode()), 1),
                manifest=manifest,  # type: ignore[arg-type]
                documents=frozenset({manifest}),  # type: ignore[arg-type]
                layers=frozenset(held),
                size=1,
                user="",
                snapshotter=SNAPSHOTTER,
                chain_id=None if number is None else self.committed[number][0],  # type: ignore[index]
            ),
        )
        self.images[image_id] = ModelImage(image_id, manifest, frozenset(held), number)  # type: ignore[arg-type]
        self.names[str(image_id)] = self.names[f"name{name}"] = image_id

    # --- what goes ---------------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def end_lease(self, data: st.DataObject) -> None:
        lease = self.pick(data, self.leases)
        leases.end(self.db, Lease(lease), keep_for_resume=False)  # type: ignore[arg-type]
        del self.leases[lease]  # type: ignore[arg-type]

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def keep_for_resume(self, data: st.DataObject) -> None:
        lease = self.pick(data, self.leases)
        leases.end(self.db, Lease(lease), keep_for_resume=True)  # type: ignore[arg-type]
        # One that holds nothing would keep nothing: every such lease goes at once, of whatever kind
        # is not at work any more.
        for empty in [x for x, held in self.leases.items() if not (held.blobs or held.snapshots)]:
            row = self.db.execute("SELECT 1 FROM leases WHERE id = ?", (empty,)).fetchone()
            if row is None:
                del self.leases[empty]

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def release_view(self, data: st.DataObject) -> None:
        key = self.pick(data, self.views)
        views.delete(self.db, SNAPSHOTTER, key)  # type: ignore[arg-type]
        del self.views[key]  # type: ignore[arg-type]

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        number = self.pick(data, self.active)
        snapshots.delete_active(self.db, SNAPSHOTTER, self.active.pop(number))  # type: ignore[arg-type]
        for lease in self.leases.values():
            lease.snapshots.discard(number)  # type: ignore[arg-type]

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def remove_image(self, data: st.DataObject) -> None:
        image_id = self.names[self.pick(data, self.names)]  # type: ignore[index]
        images.remove(self.db, image_id, "")
        self.names = {name: each for name, each in self.names.items() if each != image_id}
        del self.images[image_id]

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def remove_image_and_what_only_it_held(self, data: st.DataObject) -> None:
        image = self.images[self.names[self.pick(data, self.names)]]  # type: ignore[index]
        only = {digest for digest in image.blobs if not self.linked(digest, besides=image)}
        before = self.bytes_taken()
        garbage = sweep_image(self.db, image.id, "")
        assert garbage.bytes == before - self.bytes_taken()
        self.names = {name: each for name, each in self.names.items() if each != image.id}
        del self.images[image.id]
        assert set(garbage.blobs) == only
        self.blobs -= only
        gone = []
        number = image.snapshot
        while number is not None and not self.stood_on(number):
            gone.append(number)
            number = self.committed.pop(number)[1]
        assert garbage.snapshots.get(SNAPSHOTTER, []) == gone
        self.lost.difference_update(gone)

    def bytes_taken(self) -> int:
        return sum(usage.bytes for usage in totals.taken(self.db).values())

    def linked(self, digest: Digest, besides: ModelImage) -> bool:
        return any(
            digest in each.blobs for each in self.images.values() if each is not besides
        ) or any(digest in lease.blobs for lease in self.leases.values())

    def stood_on(self, number: int) -> bool:
        return (
            number in self.adopted
            or number in self.views.values()
            or any(image.snapshot == number for image in self.images.values())
            or any(parent == number for _, parent in self.committed.values())
            or any(number in lease.snapshots for lease in self.leases.values())
        )

    @precondition(lambda self: self.blobs)
    @rule(data=st.data())
    def lose_blob(self, data: st.DataObject) -> None:
        """Or bring it back, with another size."""
        digest = self.pick(data, self.blobs)
        if data.draw(st.booleans()):
            blobs.lost(self.db, [digest])  # type: ignore[list-item]
        else:
            blobs.insert(self.db, digest, 2, None)  # type: ignore[arg-type]

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def lose_snapshot(self, data: st.DataObject) -> None:
        """A lost snapshot's row stays while something holds it; its chain ID is free."""
        number = self.pick(data, self.whole)
        snapshots.lose(self.db, [number])  # type: ignore[list-item]
        lost = {number}
        while above := {n for n, (_, p) in self.committed.items() if p in lost} - lost:
            lost |= above
        self.lost |= lost  # type: ignore[arg-type]
        ready = {record.image_id for record in readiness.all_ready(self.db)}
        damaged = {image.image_id for image in readiness.damaged(self.db)}
        for image in self.images.values():
            whole = image.snapshot not in self.lost
            whole = whole and not any(self.is_lost(digest) for digest in image.blobs)
            named = image.id in self.names.values()
            assert (image.id in ready) == (whole and named)
            assert (image.id in damaged) == (named and not whole)

    def is_lost(self, digest: Digest) -> bool:
        info = blobs.find(self.db, digest)
        return info is None or info.state == "lost"

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def adopt_snapshot(self, data: st.DataObject) -> None:
        """A runtime adopts a chain from the bottom up."""
        number = self.pick(data, self.whole)
        line = []
        while number is not None:
            line.append(number)
            number = self.committed[number][1]  # type: ignore[index]
        parent = ""
        for each in reversed(line):
            chain = self.committed[each][0]  # type: ignore[index]
            assert runtime_snapshots.adopt(self.db, RUNTIME, chain, parent, {})
            parent = chain
        self.adopted.update(line)  # type: ignore[arg-type]

    @precondition(lambda self: self.adopted)
    @rule()
    def forget_runtime(self) -> None:
        runtime_snapshots.delete_all(self.db, RUNTIME)
        self.adopted.clear()

    # --- the sweep ---------------------------------------------------------------------------

    @rule()
    def sweep(self) -> None:
        before = self.bytes_taken()
        garbage = sweep(self.db)
        named = set(self.names.values())
        self.images = {key: image for key, image in self.images.items() if key in named}
        live = set[Digest]()
        for image in self.images.values():
            live |= image.blobs | {image.manifest}
        for lease in self.leases.values():
            live |= lease.blobs
        standing = {image.snapshot for image in self.images.values()} | set(self.views.values())
        standing |= self.adopted
        for lease in self.leases.values():
            standing |= lease.snapshots
        reached = set[int]()
        for number in standing:
            while number is not None and number in self.committed and number not in reached:
                reached.add(number)
                number = self.committed[number][1]
        gone = garbage.snapshots.get(SNAPSHOTTER, [])
        assert set(garbage.blobs) == self.blobs - live
        assert set(self.committed) - set(gone) == reached
        parents = {number: self.committed[number][1] for number in gone if number in self.committed}
        for position, number in enumerate(gone):
            assert parents.get(number) not in gone[:position], "a parent went before its child"
        assert garbage.bytes == before - self.bytes_taken()
        self.blobs = live
        self.committed = {n: self.committed[n] for n in reached}
        self.lost &= reached

    @invariant()
    def rows_are_as_the_model_has_them(self) -> None:
        def numbers(query: str) -> set[object]:
            return {row[0] for row in self.db.execute(query)}

        assert numbers("SELECT digest FROM blobs") == self.blobs
        assert numbers("SELECT id FROM snapshots WHERE key IS NOT NULL") == set(self.active)
        assert numbers("SELECT id FROM snapshots WHERE key IS NULL") == set(self.committed)
        assert numbers("SELECT id FROM snapshots WHERE chain_id IS NOT NULL") == self.whole
        assert numbers("SELECT name FROM names") == set(self.names)
        assert {str(name) for name in self.names} >= {
            name for record in readiness.all_ready(self.db) for name in record.names
        }
        assert self.db.execute("PRAGMA foreign_key_check").fetchall() == []

    @invariant()
    def totals_are_sums(self) -> None:
        summed = self.db.execute(
            "SELECT coalesce(sum(size), 0), count(*) FROM blobs WHERE state = 'present'"
        ).fetchone()
        taken = totals.taken(self.db)
        assert taken.pop(totals.BLOBS) == Usage(*summed)
        summed = self.db.execute(
            "SELECT coalesce(sum(bytes), 0), coalesce(sum(inodes), 0) FROM snapshots"
        ).fetchone()
        assert taken.get(SNAPSHOTTER, Usage(0, 0)) == Usage(*summed)


Collection.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestCollection = Collection.TestCase
