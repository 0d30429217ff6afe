"""A disk that stands still, fails, or was never fit for what is asked of it."""

from __future__ import annotations

import subprocess
import threading
import time

import grpc
import pytest

from tests.support.loopfs import LoopFileSystem
from tests.support.process import wait_until
from tests.survival.conftest import Scratch
from tests.survival.samples import family
from tests.survival.victim import Source, Victim


def test_a_store_that_was_turned_read_only_says_so(scratch: Scratch, source: Source) -> None:
    victim = Victim(scratch("readonly"), "native", image_options='disk_reserve = "0"')
    disk = LoopFileSystem(
        victim.directory / "disk.img", victim.root, megabytes=64, options="errors=remount-ro"
    )
    first, second, _ = family(1)
    references = [source.add(each, f"{source.place()}/a:1") for each in (first, second)]
    with disk, victim:
        victim.pull(references[0])
        disk.turn_read_only()
        for attempt in (
            lambda: victim.pull(references[0]),
            lambda: victim.pull(references[1]),
            lambda: victim.remove(references[0]),
        ):
            with pytest.raises(grpc.RpcError) as told:
                attempt()
            assert told.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert "mend the disk" in told.value.details()
        assert victim.image(references[0]) is not None, "it is shown as before"


def test_overlay_that_does_not_work_here_is_refused_at_the_start(scratch: Scratch) -> None:
    directory = scratch("layers")
    for name in ("low", "up", "work", "daemon/root"):
        (directory / name).mkdir(parents=True)
    victim = Victim(directory / "daemon", "overlay")
    options = f"lowerdir={directory}/low,upperdir={directory}/up,workdir={directory}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", victim.root], check=True)
    try:
        victim.launch()
        wait_until(lambda: not victim.process.running, "the daemon gives up")
        assert victim.process.stop() != 0
        assert "image.snapshotter: overlay cannot be used here: trial mount in" in victim.log()
    finally:
        subprocess.run(["umount", "-l", victim.root], check=True)


def test_a_frozen_disk_holds_up_only_what_needs_it(scratch: Scratch, source: Source) -> None:
    victim = Victim(scratch("frozen"), "native", image_options='disk_reserve = "0"')
    disk = LoopFileSystem(victim.directory / "disk.img", victim.root, megabytes=64)
    first, second, _ = family(1)
    references = [source.add(each, f"{source.place()}/a:1") for each in (first, second)]
    pulled: list[str] = []
    with disk, victim:
        victim.pull(references[0])
        pulling = threading.Thread(target=lambda: pulled.append(victim.pull(references[1])))
        with disk.frozen():
            pulling.start()
            answered = time.monotonic()
            for _ in range(20):
                assert victim.image(references[0]) is not None
                assert time.monotonic() - answered < 5
                answered = time.monotonic()
                time.sleep(0.1)
            assert not pulled
        pulling.join()
    assert pulled == [second.image.id]
