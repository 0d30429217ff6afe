"""kill -9 in the middle of a pull: nothing half-made is shown, nothing that was there is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.real.test_kinds_of_images import mounted
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.gate import Gate, gate
from tests.support.images import Image, file, image, layer, random_bytes, sha256
from tests.support.process import wait_until
from tests.support.require import require_real
from tests.support.store import contents
from tests.support.trees import describe, difference

pytestmark = pytest.mark.real

LARGE = layer({"data/large": file(random_bytes(3_000_000)), "data/small": file("s")})


@pytest.fixture(params=["overlay", "native", "erofs"])
def fresh(request: pytest.FixtureRequest, scratch: Scratch) -> Iterator[Daemon]:
    """A daemon of its own for each test here, since they kill it."""
    require_real(os.geteuid() == 0, "only root can mount and chroot")
    with Daemon(scratch("kill"), snapshotter=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def large(registry: DockerRegistry) -> tuple[Image, str]:
    made = image(layer({"base": file("b")}), LARGE, layer({"top": file("t")}))
    return made, registry.push(made, "kill/large:1")


class Pull(threading.Thread):
    """A pull whose end is looked at later."""

    def __init__(self, daemon: Daemon, reference: str) -> None:
        super().__init__()
        self.daemon_under_test, self.reference = daemon, reference
        self.error: grpc.RpcError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.daemon_under_test.pull(self.reference)
        except grpc.RpcError as error:
            self.error = error


def kill_in_mid_pull(daemon: Daemon, held: Gate, reference: str) -> None:
    pull = Pull(daemon, held.reference(reference))
    wait_until(held.reached.is_set, "the pull reaches the held blob", daemon.process)
    daemon.kill()
    pull.join()
    assert pull.error is not None


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_pull_that_is_killed(
    fresh: Daemon,
    registry: DockerRegistry,
    large: tuple[Image, str],
    busybox_reference: str,
    tmp_path: Path,
    fraction: float,
) -> None:
    made, reference = large
    fresh.pull(busybox_reference)
    shown = fresh.images()
    with mounted(fresh, busybox_reference, tmp_path / "before") as root:
        before = describe(root)
    passes = max(1, int(len(LARGE.blob) * fraction) - 1)
    with gate(registry.port, sha256(LARGE.blob), passes) as held:
        kill_in_mid_pull(fresh, held, reference)
        fresh.start()
        assert fresh.images() == shown
        assert fresh.image(held.reference(reference)) is None
        with mounted(fresh, busybox_reference, tmp_path / "after") as root:
            assert difference(describe(root), before) == []
        held.opened.set()
        assert fresh.pull(held.reference(reference)) == made.id
        with mounted(fresh, made.id, tmp_path / "pulled") as root:
            assert (root / "data/large").stat().st_size == 3_000_000
            assert (root / "base").read_text() + (root / "top").read_text() == "bt"


def test_a_killed_pull_leaves_nothing_once_collected(
    fresh: Daemon, registry: DockerRegistry, large: tuple[Image, str], busybox_reference: str
) -> None:
    fresh.pull(busybox_reference)
    fresh.cli("gc", "--resumable")
    before = contents(fresh.root)
    with gate(registry.port, sha256(LARGE.blob), len(LARGE.blob) // 2) as held:
        kill_in_mid_pull(fresh, held, large[1])
    fresh.start()
    fresh.cli("gc", "--resumable")
    assert contents(fresh.root) == before


def test_no_process_outlives_a_killed_daemon(
    fresh: Daemon, registry: DockerRegistry, large: tuple[Image, str]
) -> None:
    with gate(registry.port, sha256(LARGE.blob), len(LARGE.blob) // 2) as held:
        pull = Pull(fresh, held.reference(large[1]))
        wait_until(held.reached.is_set, "the pull reaches the held blob", fresh.process)
        family = descendants(fresh.process.pid)
        fresh.kill()
        pull.join()
        for pid in family:
            wait_until(lambda pid=pid: not alive(pid), f"process {pid} ends")


@pytest.mark.parametrize("stands_still", ["nothing", "zygote", "workers"])
def test_sigterm_ends_a_running_pull(
    fresh: Daemon, registry: DockerRegistry, large: tuple[Image, str], stands_still: str
) -> None:
    with gate(registry.port, sha256(LARGE.blob), len(LARGE.blob) // 2) as held:
        pull = Pull(fresh, held.reference(large[1]))
        wait_until(held.reached.is_set, "the pull reaches the held blob", fresh.process)
        family = descendants(fresh.process.pid)
        workers = set().union(*map(descendants, family))
        kinds = {"nothing": set(), "zygote": family - workers, "workers": workers}
        for pid in kinds[stands_still]:
            with suppress(ProcessLookupError):  # it has applied the small layer below
                os.kill(pid, signal.SIGSTOP)
        fresh.stop()
        pull.join()
    assert pull.error is not None
    fresh.start()
    assert fresh.images() == []


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            for child in map(int, children.read_text().split()):
                found |= {child} | descendants(child)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
