"""A disk that becomes full (of bytes or of files) at every step of a pull: the pull alone fails,
saying so; what it took comes back; other images are unharmed; with room the next pull succeeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support import oracle
from tests.support.images import directory, file, random_bytes, sha256
from tests.support.killpoints import Order, fill
from tests.support.loopfs import LoopFileSystem
from tests.support.oracle import Oracle, Sample, code_of
from tests.support.store import Contents, contents
from tests.survival.conftest import Scratch
from tests.survival.samples import family
from tests.survival.victim import Source, Victim

pytestmark = pytest.mark.real

SNAPSHOTTERS = ("overlay", "native", "erofs")

TOO_EARLY = (
    "a lease is written but not committed",
    "a document is about to be published",
    "a blob's row is about to be written",
    "a blob's file is renamed but not committed",
    "a document is published",
    "an ingest is opened",
    "a chunk is written",
    "a snapshot's row is written",
    "a snapshot is prepared",
    "a worker is forked",
)
"""Where more must be written after than can have been reserved before: such pulls fail."""
PERHAPS = (
    "a blob has arrived whole",
    "a worker is told of more bytes",
    "a layer is applied",
    "a snapshot is named but not committed",
    "an image is about to be saved",
    "an image is committed",
    "a lease is ended but not committed",
)
"""Where what is left to write may fit into what the store has reserved."""


def large() -> Sample:
    """Little to fetch in comparison with what it unpacks to, and many files."""
    root = {".": directory(mtime=1_600_000_000), "d": directory()}
    noise = {f"d/noise{n}": file(random_bytes(400_000)) for n in range(8)}
    zeros = {f"d/zeros{n}": file(bytes(1_500_000)) for n in range(8)}
    many = {f"d/many{n}": file(str(n)) for n in range(300)}
    return Sample.of({**root, **noise}, {**root, **zeros}, {**root, **many})


class Bench:
    """A daemon whose store has a small disk of its own, with two images on it."""

    def __init__(self, victim: Victim, disk: LoopFileSystem, source: Source) -> None:
        self.victim, self.disk = victim, disk
        self.keepers, self.large = family(3)[:2], large()
        place = source.place()
        self.kept = [source.add(s, f"{place}/keep{n}:1") for n, s in enumerate(self.keepers)]
        self.reference = source.add(self.large, f"{place}/large:1")
        self.oracle = Oracle([*self.keepers, self.large])
        victim.start()
        for each in self.kept:
            victim.pull(each)
        # Once, so that the database has the size that it takes.
        victim.pull(self.reference)
        self.forget()
        oracle.all_durable(victim)
        self.baseline = contents(victim.root)

    @property
    def filler(self) -> Path:
        return self.victim.root / "filler"

    def forget(self) -> None:
        self.victim.remove(self.reference)
        oracle.collect(self.victim)

    def make_room(self) -> None:
        self.victim.order.unlink(missing_ok=True)
        if self.filler.is_dir():
            shutil.rmtree(self.filler)
        self.filler.unlink(missing_ok=True)

    def pull(self) -> grpc.RpcError | None:
        try:
            self.victim.pull(self.reference)
        except grpc.RpcError as error:
            return error
        return None

    def judge(self, error: grpc.RpcError | None, *, must_fail: bool) -> None:
        """After a pull during which the disk became full, and still is."""
        kept = {each.image.id for each in self.keepers}
        shown = {each.id for each in self.victim.images()}
        assert shown == kept | (set() if error else {self.large.image.id})
        if error is not None:
            assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
            assert "space" in str(error.details()).lower()
        assert error is not None or not must_fail
        self.make_room()
        assert self.oracle.check(self.victim) == shown
        if error is not None:
            oracle.collect(self.victim)
            assert differences(contents(self.victim.root), self.baseline) == set()
            assert self.pull() is None
            assert self.oracle.check(self.victim) == kept | {self.large.image.id}
        self.forget()
        oracle.all_durable(self.victim)
        assert differences(contents(self.victim.root), self.baseline) == set()


def differences(one: Contents, other: Contents) -> set[tuple[str, int]]:
    rows = set(one.rows.items()) ^ set(other.rows.items())
    return rows | (set(one.files.items()) ^ set(other.files.items()))


class Benches:
    """Lends benches. One that a test failed with is not lent again."""

    def __init__(self, make: Callable[[str, int], Bench]) -> None:
        self._make = make
        self._free: dict[tuple[str, int], Bench] = {}

    @contextmanager
    def lent(self, snapshotter: str, inodes: int = 0) -> Iterator[Bench]:
        bench = self._free.pop((snapshotter, inodes), None) or self._make(snapshotter, inodes)
        yield bench
        self._free[snapshotter, inodes] = bench


@pytest.fixture(scope="module")
def benches(scratch: Scratch, source: Source) -> Iterator[Benches]:
    with ExitStack() as stack:

        def make(snapshotter: str, inodes: int) -> Bench:
            place = scratch("full")
            victim = Victim(place, snapshotter=snapshotter, image_options='disk_reserve = "0"')
            disk = LoopFileSystem(place / "disk.img", victim.root, megabytes=96, inodes=inodes)
            stack.enter_context(disk)
            stack.callback(victim.kill)
            return Bench(victim, disk, source)

        yield Benches(make)


def snapshotter_for(case: int) -> str:
    """They take turns: what differs between them is sealed and cloned only."""
    return SNAPSHOTTERS[case % len(SNAPSHOTTERS)]


@pytest.mark.parametrize(("case", "point"), list(enumerate([*TOO_EARLY, *PERHAPS])))
def test_the_disk_is_full_from_one_step_on(benches: Benches, case: int, point: str) -> None:
    with benches.lent(snapshotter_for(case)) as bench:
        bench.victim.obey(Order(point, 1, "fill", str(bench.filler)))
        error = bench.pull()
        assert not bench.victim.order.exists(), "the step was never reached"
        bench.judge(error, must_fail=point in TOO_EARLY)


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_the_disk_is_full_when_a_layer_is_sealed(benches: Benches, snapshotter: str) -> None:
    with benches.lent(snapshotter) as bench:
        point = f"a layer is sealed ({snapshotter})"
        bench.victim.obey(Order(point, 2, "fill", str(bench.filler)))
        error = bench.pull()
        assert not bench.victim.order.exists(), "no layer was sealed"
        bench.judge(error, must_fail=False)


@pytest.mark.parametrize(("case", "megabytes"), list(enumerate((0.25, 1, 4, 6, 9, 14))))
def test_the_disk_becomes_full_on_the_way(benches: Benches, case: int, megabytes: float) -> None:
    """Of what the pull itself writes: first the blobs do not fit, then what they unpack to."""
    with benches.lent(snapshotter_for(case)) as bench:
        bench.disk.fill_up_to(bench.filler, int(megabytes * 2**20))
        bench.judge(bench.pull(), must_fail=True)


@pytest.mark.parametrize(
    ("case", "point"),
    list(
        enumerate(
            (
                "a lease is written but not committed",
                "an ingest is opened",
                "a snapshot's row is written",
                "a worker is forked",
            )
        )
    ),
)
def test_there_is_no_inode_left(benches: Benches, case: int, point: str) -> None:
    with benches.lent(snapshotter_for(case), inodes=3000) as bench:
        bench.victim.obey(Order(point, 1, "exhaust", str(bench.filler)))
        error = bench.pull()
        assert not bench.victim.order.exists(), "the step was never reached"
        bench.judge(error, must_fail=True)


def test_a_pull_that_cannot_fit_is_refused_before_it_fetches(
    benches: Benches, source: Source
) -> None:
    with benches.lent("overlay") as bench:
        bench.disk.fill_up_to(bench.filler, 2 << 20)
        layers = {sha256(each.blob) for each in bench.large.image.layers}
        source.registry.seen.clear()
        error = bench.pull()
        assert error is not None
        assert "missing" in str(error.details())
        assert not [seen for seen in source.registry.gets() if seen.path.split("/")[-1] in layers]
        bench.judge(error, must_fail=True)


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_removing_images_makes_room_on_a_full_disk(benches: Benches, snapshotter: str) -> None:
    """The kubelet's way out: nothing else may be needed to come back from a full disk."""
    with benches.lent(snapshotter) as bench:
        assert bench.pull() is None
        fill(bench.filler)
        bench.victim.remove(bench.reference)
        oracle.collect(bench.victim)
        assert bench.disk.free() > 10 << 20
        bench.make_room()
        bench.forget()
        assert differences(contents(bench.victim.root), bench.baseline) == set()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_a_daemon_starts_on_a_full_disk(benches: Benches, snapshotter: str) -> None:
    """It shows what it has, and when there is room it goes on as before."""
    with benches.lent(snapshotter) as bench:
        bench.victim.kill()
        fill(bench.filler)
        bench.victim.start()
        assert {each.id for each in bench.victim.images()} == {s.image.id for s in bench.keepers}
        bench.judge(bench.pull(), must_fail=True)
