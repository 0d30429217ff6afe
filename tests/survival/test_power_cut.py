"""Power cuts at random moments: the store is on ext4, and from one moment on nothing reaches the
disk any more, not even what its journal holds in memory. Then the daemon dies, the file system is
mounted anew, and the next daemon reads another boot ID.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support import oracle
from tests.support.loopfs import LoopFileSystem
from tests.support.mounts import let_go
from tests.support.oracle import Oracle
from tests.support.registry import BLOB, Fault
from tests.support.store import contents
from tests.survival.conftest import CUTS, SEED, Scratch, chance
from tests.survival.samples import family
from tests.survival.victim import Source, Victim

pytestmark = pytest.mark.real

SNAPSHOTTERS = ("overlay", "native", "erofs")
MOUNT_OPTIONS = ("", "data=writeback", "commit=1", "data=journal", "nodelalloc,data=writeback")


class Machine:
    """A daemon with its store on a disk of its own, and a switch for both."""

    def __init__(self, directory: Path, snapshotter: str, options: str, image: str = "") -> None:
        options_of_image = f'disk_reserve = "0"\n{image}'
        self.victim = Victim(directory, snapshotter=snapshotter, image_options=options_of_image)
        self.disk = LoopFileSystem(
            directory / "disk.img", self.victim.root, megabytes=128, options=options
        )

    def boot(self) -> None:
        """Start the daemon, for which it is the first time since the machine was started."""
        self.victim.boot_id = str(uuid.uuid4())
        self.victim.start()

    def cut_power(self) -> None:
        """All that did not reach the disk is lost. Ends with the file system mounted again."""
        self.disk.cut_power()
        self.victim.kill()
        let_go(self.victim.state / "layers")
        self.disk.restart()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Booted; at the end nothing is left of it."""
        with self.disk:
            try:
                self.boot()
                yield
            finally:
                if self.victim.process.running:
                    self.victim.kill()


def cuts() -> list[tuple[str, str, int]]:
    """(snapshotter, mount options, number)"""
    return [
        (SNAPSHOTTERS[number % 3], MOUNT_OPTIONS[number % len(MOUNT_OPTIONS)], number)
        for number in range(CUTS)
    ]


@pytest.mark.parametrize(("snapshotter", "options", "number"), cuts())
def test_power_is_cut(
    scratch: Scratch, source: Source, snapshotter: str, options: str, number: int
) -> None:
    machine = Machine(scratch("cut"), snapshotter, options)
    samples = family(SEED + number)
    references = [source.add(each, f"cut{number}/s{n}:1") for n, each in enumerate(samples)]
    judge = Oracle(samples)
    dice = chance("cut", number)
    with machine.running():
        fresh = contents(machine.victim.root)
        for _ in range(2):
            use_until_cut(machine, references, source, dice)
            machine.boot()
            judge.check(machine.victim)
        for reference, sample in zip(references, samples, strict=True):
            assert machine.victim.pull(reference) == sample.image.id
        assert judge.check(machine.victim) == judge.samples.keys()
        oracle.check_store(machine.victim)
        judge.check_empty(machine.victim, fresh)


def use_until_cut(
    machine: Machine, references: list[str], source: Source, dice: random.Random
) -> None:
    """Pull everything (some of it slowly), remove one and pull it again; in the middle of it, or
    some time after, the power goes."""
    victim = machine.victim
    source.registry.faults[:] = [Fault(where=BLOB, pace=dice.choice((0, 0.01, 0.03)))]

    cut = threading.Event()
    errors: list[grpc.RpcError] = []

    def use() -> None:
        try:
            for reference in references:
                victim.pull(reference)
            oracle.collect(victim)
            victim.remove(references[1])
            victim.pull(references[1])
        except grpc.RpcError as error:
            if not cut.is_set():
                errors.append(error)

    life = threading.Thread(target=use)
    life.start()
    life.join(timeout=dice.choice((dice.uniform(0, 0.5), dice.uniform(0, 2), 60)))
    threading.Event().wait(dice.choice((0, 0, dice.uniform(0, 2))))
    cut.set()
    machine.cut_power()
    life.join()
    source.registry.faults.clear()
    assert errors == []


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_a_pull_that_waited_for_the_disk_survives(
    scratch: Scratch, source: Source, snapshotter: str
) -> None:
    """With image_pull_with_sync_fs an image is there after the cut, without another pull; and an
    image whose removal was answered does not come back."""
    machine = Machine(scratch("sync"), snapshotter, "", "image_pull_with_sync_fs = true")
    samples = family(SEED)
    references = [source.add(each, f"sync/s{n}:1") for n, each in enumerate(samples)]
    judge = Oracle(samples)
    with machine.running():
        for reference in references[:2]:
            machine.victim.pull(reference)
        machine.cut_power()
        machine.boot()
        kept = {each.image.id for each in samples[:2]}
        assert judge.check(machine.victim) == kept
        machine.victim.remove(references[0])
        machine.cut_power()
        machine.boot()
        assert judge.check(machine.victim) == {samples[1].image.id}


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_what_was_synced_in_the_background_survives(
    scratch: Scratch, source: Source, snapshotter: str
) -> None:
    """Rows that are marked durable are believed at the next boot, and rightly."""
    machine = Machine(scratch("mark"), snapshotter, "")
    samples = family(SEED)
    reference = source.add(samples[2], "mark/s:1")
    judge = Oracle(samples)
    with machine.running():
        machine.victim.pull(reference)
        oracle.all_durable(machine.victim)
        machine.cut_power()
        machine.boot()
        assert judge.check(machine.victim) == {samples[2].image.id}


def test_a_restart_within_one_boot_believes_what_is_in_memory(
    scratch: Scratch, source: Source
) -> None:
    """The boot ID alone makes the difference: after a mere kill nothing is lost or fetched."""
    machine = Machine(scratch("same"), "overlay", "")
    samples = family(SEED)
    reference = source.add(samples[0], "same/s:1")
    with machine.running():
        machine.victim.pull(reference)
        machine.victim.kill()
        machine.victim.start()
        assert Oracle(samples).check(machine.victim) == {samples[0].image.id}
