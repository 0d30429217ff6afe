"""kill -9 between every two durable effects of pull, view, remove and gc, and at random moments.

After each death the daemon starts again: what it shows is whole, no blob has wrong bytes, nothing
of the dead process lives on, what it was at succeeds the second time, and when all images are
removed the store is as a fresh one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import pytest

from tests.support import oracle
from tests.support.images import image, sha256, with_wrong_diff_id
from tests.support.killpoints import ANY, POINTS, Order, Point
from tests.support.oracle import Oracle, Sample
from tests.support.registry import BLOB, Fault, reset
from tests.support.store import Contents, contents
from tests.survival.conftest import ROUNDS, SEED, Scratch, chance
from tests.survival.samples import family
from tests.survival.victim import Source, Victim

pytestmark = pytest.mark.real

SNAPSHOTTERS = ("overlay", "native", "erofs")


ONE_FILE = ("erofs", "the trash is half empty")
"""A layer is one file there: so few that none is left half-way."""


def chosen_points() -> list[tuple[str, str, int]]:
    """(snapshotter, point, round): all, ROUNDS times; or a part of them, once each."""
    every = [
        (snapshotter, point.name, number)
        for number in range(max(1, ROUNDS))
        for snapshotter in SNAPSHOTTERS
        for point in POINTS.values()
        if point.snapshotter in ("", snapshotter) and (snapshotter, point.name) != ONE_FILE
    ]
    return every if ROUNDS else sorted(random.Random(SEED).sample(every, 10))


def randomly() -> list[tuple[str, int]]:
    """(snapshotter, round) of deaths that no point was chosen for."""
    return [(name, number) for number in range(ROUNDS * 5 or 1) for name in SNAPSHOTTERS]


@dataclass
class Bench:
    """One store after the other, with three images in the registry."""

    victim: Victim
    source: Source
    samples: list[Sample] = field(default_factory=lambda: family(SEED))
    sound: bool = True
    """Whether the store is as a fresh one."""
    fresh: Contents = field(init=False)
    references: list[str] = field(init=False)
    oracle: Oracle = field(init=False)
    spoilt: str = field(init=False)

    def __post_init__(self) -> None:
        place = self.source.place()
        self.references = [
            self.source.add(sample, f"{place}/sample{number}:1")
            for number, sample in enumerate(self.samples)
        ]
        self.oracle = Oracle(self.samples)
        good, *rest = self.samples[2].image.layers
        lying = Sample((), image(good, *rest[:-1], with_wrong_diff_id(rest[-1])))
        self.spoilt = self.source.add(lying, f"{place}/lying:1")
        self.victim.start()
        self.fresh = contents(self.victim.root)

    # --- what a daemon does when it dies ---------------------------------------------------------

    def pull(self) -> None:
        """Of four layers that the store lacks, over one that it has."""
        self.victim.pull(self.references[2])

    def view(self) -> None:
        """Open, write into, and release."""
        with oracle.mounted(self.victim, self.references[2], writable=True) as root:
            (root / "written").write_text("in a view")

    def remove(self) -> None:
        self.victim.remove(self.references[2])

    def collect(self) -> None:
        oracle.collect(self.victim)

    def fail(self) -> None:
        """A pull that ends with an error."""
        self.victim.pull(self.spoilt)

    def break_off(self) -> None:
        """A pull whose last layers never come: it leaves something to resume."""
        faults = self.source.registry.faults
        last = sha256(self.samples[2].image.layers[-1].blob)
        faults.append(reset(100, where=BLOB, reference=last))
        try:
            with pytest.raises(grpc.RpcError):
                self.victim.pull(self.references[2])
        finally:
            faults.clear()

    # --- judging ---------------------------------------------------------------------------------

    def judge(self) -> None:
        """After a death and a start."""
        shown = self.oracle.check(self.victim)
        assert self.samples[0].image.id in shown
        for reference, sample in zip(self.references, self.samples, strict=True):
            assert self.victim.pull(reference) == sample.image.id
        assert self.oracle.check(self.victim) == self.oracle.samples.keys()
        oracle.check_store(self.victim)
        self.oracle.check_empty(self.victim, self.fresh)
        self.sound = True


@pytest.fixture(scope="module")
def stores(scratch: Scratch, source: Source) -> Iterator[Callable[[str], Bench]]:
    """The bench of a snapshotter, its store as a fresh one, the daemon running."""
    benches: dict[str, Bench] = {}

    def get(snapshotter: str) -> Bench:
        bench = benches.get(snapshotter)
        if bench is None or not bench.sound:
            if bench is not None:
                bench.victim.kill()
            victim = Victim(scratch(snapshotter), snapshotter=snapshotter)
            bench = benches[snapshotter] = Bench(victim, source)
        bench.sound = False
        bench.victim.pull(bench.references[0])
        return bench

    yield get
    for bench in benches.values():
        bench.victim.stop()


@pytest.mark.parametrize(("snapshotter", "name", "number"), chosen_points())
def test_killed_at(
    stores: Callable[[str], Bench], snapshotter: str, name: str, number: int
) -> None:
    point = POINTS[name]
    bench = stores(snapshotter)
    prepare, act = _scenario(bench, point)
    prepare()
    order = Order(name, chance(name, number).randint(1, point.calls))
    bench.victim.obey(order)
    if point.during == "start":
        bench.victim.launch()
    else:
        with suppress(grpc.RpcError):
            act()
    bench.victim.await_death(name)
    bench.victim.start()
    bench.judge()


def _scenario(bench: Bench, point: Point) -> tuple[Callable[[], None], Callable[[], None]]:
    """What to do before the order, and what to do then."""

    def nothing() -> None:
        pass

    def die_in_mid_pull() -> None:
        bench.victim.obey(Order("a worker is told of more bytes", 2))
        with suppress(grpc.RpcError):
            bench.pull()
        bench.victim.await_death("in mid-pull")

    return {
        "pull": (nothing, bench.pull),
        "view": (bench.pull, bench.view),
        "remove": (bench.pull, bench.remove),
        "gc": (bench.break_off, bench.collect),
        "start": (die_in_mid_pull, nothing),
        "failing pull": (nothing, bench.fail),
    }[point.during]


@pytest.mark.parametrize(("snapshotter", "number"), randomly())
def test_killed_between_any_two_steps(
    stores: Callable[[str], Bench], snapshotter: str, number: int
) -> None:
    """At a random one of all calls of all points, in a life of pulls, views and removals."""
    bench = stores(snapshotter)
    bench.victim.obey(Order(ANY, chance("any", snapshotter, number).randint(1, 400)))
    _live(bench)
    if bench.victim.process.running:
        bench.victim.kill()
    bench.victim.order.unlink(missing_ok=True)
    bench.victim.start()
    bench.judge()


@pytest.mark.parametrize(("snapshotter", "number"), randomly())
def test_killed_at_any_moment(
    stores: Callable[[str], Bench], snapshotter: str, number: int
) -> None:
    bench = stores(snapshotter)
    bench.source.registry.faults.append(Fault(where=BLOB, pace=0.02))
    life = threading.Thread(target=_live, args=(bench,))
    life.start()
    time.sleep(chance("moment", snapshotter, number).uniform(0, 1.5))
    bench.victim.kill()
    life.join()
    bench.source.registry.faults.clear()
    bench.victim.start()
    bench.judge()


def _live(bench: Bench) -> None:
    """Use a daemon until it dies."""
    with suppress(grpc.RpcError):
        for step in (bench.pull, bench.view, bench.remove, bench.collect, bench.pull):
            step()
