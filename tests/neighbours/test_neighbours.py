"""Whatever is hostile hurts itself alone: for each case an honest pull beside it takes at most
twice its time alone plus a second, ImageFsInfo answers within half a second throughout, all
processes stay under 350 MiB, no callback keeps the event loop for long, and nothing is left.

These are bounds in time, against the same thing alone in the same test; a case that is over one is
tried twice more. `make neighbours` runs all cases; otherwise one in ten is run, of each kind some,
always the same: NEIGHBOURS=0 to 9 says which. `make erofs` runs that part with layers as images.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from cri_imaged.limits import MIB
from tests.neighbours.beside import HostileRegistry, Watch, pulling
from tests.neighbours.honest import honest, serve
from tests.neighbours.hostile import HOSTILE, NAME_SERVER
from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.erofs import WHOLE
from tests.support.memory import processes
from tests.support.process import wait_until
from tests.support.registry import FaultRegistry
from tests.support.require import require_real
from tests.support.store import contents

pytestmark = pytest.mark.real

WHICH = os.environ.get("NEIGHBOURS", "6")
PARTS = 10
TRIES = 3
SLOWEST_ANSWER = 0.5
"""Seconds, beyond those of the slowest answer beside the honest pull alone."""
GIVEN_UP = 30.0
"""Seconds after which an honest pull is no longer waited for."""
MEMORY = 350 * MIB


def chosen() -> list[str]:
    """The cases of this run."""
    return list(HOSTILE) if WHICH == "all" else list(HOSTILE)[int(WHICH) :: PARTS]


@pytest.fixture(scope="module")
def daemon(scratch: Scratch) -> Iterator[Daemon]:
    require_real(os.geteuid() == 0, "only root can mount and chroot")
    directory = scratch("neighbours")
    names = directory / "resolv.conf"
    names.write_text(f"nameserver {NAME_SERVER}\n")
    script = f'mount --bind {names} /etc/resolv.conf && exec "$@"'
    wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
    snapshotter = "erofs" if WHOLE else "overlay"
    with Daemon(directory, snapshotter, level="info", wrapper=wrapper) as running:
        yield running


@pytest.fixture
async def reference() -> AsyncIterator[str]:
    """The honest image, in a registry of its own that does what it should."""
    async with FaultRegistry() as registry:
        yield serve(registry, "honest/app", honest())


def clean(daemon: Daemon) -> None:
    running = "containerd_cri_in_progress_image_pulls_total"
    wait_until(lambda: not daemon.metric(running), "what was cancelled has ended")
    for present in daemon.images():
        daemon.remove(present.id)
    daemon.collect_garbage()


async def timed_pull(daemon: Daemon, reference: str) -> float:
    """Seconds of the honest pull into a store that does not have the image, or GIVEN_UP."""
    began = time.monotonic()
    try:
        assert await daemon.pull_meanwhile(reference, within=GIVEN_UP) == honest().id
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # type: ignore[attr-defined]
            raise
        return GIVEN_UP
    return time.monotonic() - began


def stalls(daemon: Daemon) -> list[str]:
    """Where the event loop was kept busy: the innermost frames of each time."""
    return [
        " ".join(str(line["stack"]).split("\n")[-7:])
        for line in daemon.log_lines()
        if line["event"] == "event loop is kept busy"
    ]


async def problems_beside(daemon: Daemon, reference: str, name: str) -> list[str]:
    """Which bounds the case went over."""
    clean(daemon)
    with Watch(daemon) as quiet:
        alone = await timed_pull(daemon, reference)
    clean(daemon)
    before, stalled = contents(daemon.root), stalls(daemon)
    with (
        HostileRegistry(name) as hostile,
        Watch(daemon) as watch,
        pulling(daemon, hostile.pulls),
    ):
        hostile.until_asked()
        beside = await timed_pull(daemon, reference)
    clean(daemon)
    problems = []
    if beside > 2 * alone + 1:  # or does the machine do less than before?
        alone = max(alone, await timed_pull(daemon, reference))
        clean(daemon)
    if beside > 2 * alone + 1:
        problems.append(f"the honest pull took {beside:.2f} s, alone {alone:.2f} s")
    if watch.slowest > SLOWEST_ANSWER + quiet.slowest:
        problems.append(f"ImageFsInfo took {watch.slowest:.2f} s")
    if watch.memory > MEMORY:
        problems.append(f"all processes had {watch.memory / MIB:.0f} MiB")
    if new := stalls(daemon)[len(stalled) :]:
        problems.append(f"the event loop was kept busy: {new}")
    wait_until(lambda: contents(daemon.root) == before, f"nothing is left of {name!r}")
    wait_until(lambda: len(list(processes(daemon.process.pid))) <= 2, "no worker is left")
    return problems


@pytest.mark.parametrize("name", chosen())
async def test_hostile_pulls_hurt_no_neighbour(daemon: Daemon, reference: str, name: str) -> None:
    tries = []
    for _ in range(TRIES):
        tries.append(await problems_beside(daemon, reference, name))
        if not tries[-1]:
            return
    pytest.fail(f"{name}: {tries}")
