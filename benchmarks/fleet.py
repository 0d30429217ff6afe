"""Many nodes that want one image at once: a simulation, in virtual time.

    python benchmarks/fleet.py [--nodes N] [--pulls N] [--hours H] [--requests N] [--seed N]
                               [--json FILE]

Each node starts three pods of an image of 500 MB, `imagePullPolicy: Always`, a minute apart, and
tries again as the kubelet does after a pull that failed. All nodes are one login and one address to
the registry, which sends 10 Gbit/s and answers 429 with Retry-After beyond its limits, as Docker
Hub does; a node has 1 Gbit/s. What is tried when and at which host is decided by the daemon's own
code (registry/tries.py, registry/retry.py); registry, links, mirror and peers are models
(benchmarks/simulating/). A node fetches one layer after another; mirror and seed pass a layer on
once they have all of it; unpacking takes no time. No socket is opened; hours take seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from simulating.clock import VirtualLoop
from simulating.link import Link
from simulating.sources import Mirror, Peers, Registry, SeededPeers, Source, Thing, Window

from cri_imaged.errors import ImagedError
from cri_imaged.limits import Limits
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.retry import RetryPolicy
from cri_imaged.registry.tries import HostHealth, Tries

_GBIT = 125_000_000
_NODE = 1 * _GBIT
_SERVER = 10 * _GBIT
"""Of the registry, the mirror and the seed."""
_MB = 1_000_000
_HEAD = Thing("manifest's headers", 0)
_MANIFEST = Thing("manifest", 3_000, counted=True)
_BLOBS = (
    Thing("config", 10_000),
    *(Thing(f"layer of {size} MB", size * _MB) for size in (200, 150, 100, 30, 20)),
)
_PODS = 3
_POD_SECONDS = 60.0
_BACKOFF_SECONDS = (10.0, 300.0)
"""The kubelet's first wait after a failed pull, doubled up to the second (MaxContainerBackOff)."""
_MINUTE = 60.0
_HOUR = 3600.0
_REGISTRY = Host("https", "registry.example")
_MIRROR = Host("https", "mirror.example")
_PEERS = Host("http", "127.0.0.1:30020")


@dataclass(frozen=True)
class Scenario:
    """What nodes do, and what stands between them and the registry."""

    name: str
    head_first: bool = True
    """Whether a tag whose image is here is asked for with HEAD."""
    jitter: bool = True
    """Whether retries are spread by chance."""
    spread: float = 0.0
    """Seconds over which nodes begin, by chance: the jitter of prefetches."""
    mirror: bool = False
    peers: bool = False
    seeded: bool = False


SCENARIOS = (
    Scenario("GET always, no jitter", head_first=False, jitter=False),
    Scenario("HEAD first, no jitter", jitter=False),
    Scenario("HEAD first, jitter", jitter=True),
    Scenario("… begun over 10 min", spread=600.0),
    Scenario("pull-through mirror", mirror=True),
    Scenario("peers", peers=True),
    Scenario("… begun over 10 min, peers", spread=600.0, peers=True),
    Scenario("seeded peers", seeded=True),
    Scenario("mirror, seeded peers", mirror=True, seeded=True),
)


@dataclass(frozen=True)
class Result:
    """Seconds are since the first node might have begun; None where not all have the image."""

    scenario: str
    nodes_ready: int
    """That have the image in the end."""
    median_seconds: float | None
    all_seconds: float | None
    pods_started: int
    requests: int
    """To the registry."""
    busiest_second: int
    """Requests in it."""
    counted: int
    """Requests that were counted against the limit on pulls."""
    refused: int
    """With 429."""
    gigabytes: float
    """Sent by the registry."""


class Unjittered(RetryPolicy):
    """The waits without chance."""

    def delay(self, failures: int, retry_after: float | None, fraction: float) -> float:
        """See `RetryPolicy.delay`."""
        return super().delay(failures, retry_after, 0.0)


class Fleet:
    """The sources of a scenario, and what all nodes have done."""

    def __init__(self, scenario: Scenario, registry: Registry) -> None:
        self.scenario = scenario
        upstream: Source = registry
        self._sources: dict[Host, Source] = {_REGISTRY: registry}
        if scenario.mirror:
            upstream = self._sources[_MIRROR] = Mirror(Link(_SERVER, _NODE), registry)
        self.peers: Peers | SeededPeers | None = None
        if scenario.peers:
            self.peers = Peers()
        elif scenario.seeded:
            self.peers = SeededPeers(Link(_SERVER, _NODE), upstream)
        if self.peers:
            self._sources[_PEERS] = self.peers
        self.policy = (RetryPolicy if scenario.jitter else Unjittered).of(Limits())
        self.ready: list[float] = []
        self.pods = 0

    def hosts(self, thing: Thing) -> Sequence[Host]:
        """In the order of hosts.toml. Dragonfly's peers have blobs alone, Spegel's all."""
        order = (_PEERS, _MIRROR, _REGISTRY)
        skipped = _PEERS if self.scenario.seeded and thing not in _BLOBS else None
        return [host for host in order if host in self._sources and host != skipped]

    async def ask(self, host: Host, thing: Thing) -> None:
        await self._sources[host].give(thing)


class Node:
    """Starts its pods one after another."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._link = Link(_NODE, _NODE)
        self._clock = asyncio.get_running_loop().time
        self._health = HostHealth(self._clock)
        self._has: set[Thing] = set()
        self._ready = False

    async def live(self, begin: float) -> None:
        await asyncio.sleep(begin)
        for _ in range(_PODS):
            await self._pull_until_done()
            self._fleet.pods += 1
            if not self._ready:
                self._ready = True
                self._fleet.ready.append(self._clock())
            await asyncio.sleep(_POD_SECONDS)

    async def _pull_until_done(self) -> None:
        wait, longest = _BACKOFF_SECONDS
        while True:
            try:
                return await self._pull()
            except ImagedError:
                await asyncio.sleep(wait)
                wait = min(wait * 2, longest)

    async def _pull(self) -> None:
        asked: set[Host] = set()

        async def inquire(host: Host) -> None:
            """As registry/inquiry.py does: each host is asked with HEAD once at most."""
            if self._ready and self._fleet.scenario.head_first and host not in asked:
                asked.add(host)
                await self._ask(host, _HEAD)
            else:
                await self._ask(host, _MANIFEST)

        await self._tries(_MANIFEST).run(inquire, lambda host: host.url("manifests/latest"))
        for blob in _BLOBS:
            if blob not in self._has:
                await self._fetch(blob)

    async def _fetch(self, blob: Thing) -> None:
        await self._tries(blob).run(
            lambda host: self._ask(host, blob), lambda host: host.url("blobs/…")
        )

    def _tries(self, thing: Thing) -> Tries:
        fleet = self._fleet
        return Tries(
            fleet.hosts(thing), "cannot pull", fleet.policy, self._health, clock=self._clock
        )

    async def _ask(self, host: Host, thing: Thing) -> None:
        await self._fleet.ask(host, thing)
        if thing not in self._has:
            self._has.add(thing)
            if self._fleet.peers:
                self._fleet.peers.announce(thing, self._link)


async def simulate(scenario: Scenario, chosen: argparse.Namespace) -> Result:
    """Run until all pods are started, or the time is up."""
    registry = Registry(
        Link(_SERVER, _NODE),
        Window(chosen.pulls or None, chosen.hours * _HOUR),
        Window(chosen.requests or None, _MINUTE),
    )
    fleet = Fleet(scenario, registry)
    nodes = [
        asyncio.create_task(Node(fleet).live(random.uniform(0, scenario.spread)))
        for _ in range(chosen.nodes)
    ]
    done, late = await asyncio.wait(nodes, timeout=chosen.hours * _HOUR)
    for node in done:
        node.result()
    for node in late:
        node.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    ready = len(fleet.ready)
    return Result(
        scenario.name,
        ready,
        statistics.median(fleet.ready) if ready == chosen.nodes else None,
        max(fleet.ready) if ready == chosen.nodes else None,
        fleet.pods,
        registry.seconds.total(),
        max(registry.seconds.values()),
        registry.counted,
        registry.refused,
        registry.sent / 1e9,
    )


def table(results: Sequence[Result], nodes: int) -> str:
    """In Markdown."""
    rows = [
        f"| {nodes} nodes | have it | half, s | all, s | pods of {nodes * _PODS} | "
        "requests | in the busiest second | counted pulls | 429s | GB of the registry |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        half, last = (
            "-" if seconds is None else f"{seconds:.0f}"
            for seconds in (result.median_seconds, result.all_seconds)
        )
        rows.append(
            f"| {result.scenario} | {result.nodes_ready} | {half} | {last} | "
            f"{result.pods_started} | {result.requests} | {result.busiest_second} | "
            f"{result.counted} | {result.refused} | {result.gigabytes:.1f} |"
        )
    return "\n".join(rows)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000, metavar="N")
    parser.add_argument(
        "--pulls", type=int, default=200, metavar="N", help="manifests in the time; 0: no limit"
    )
    parser.add_argument(
        "--hours", type=float, default=6.0, help="window of that limit, and of the simulation"
    )
    parser.add_argument(
        "--requests", type=int, default=2000, metavar="N", help="in a minute; 0: no limit"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all that is by chance")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    if chosen.nodes < 1 or chosen.hours <= 0 or min(chosen.pulls, chosen.requests) < 0:
        parser.error("--nodes and --hours are above 0, limits not below")
    return chosen


def main() -> None:
    chosen = options()
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, cache_logger_on_first_use=True)
    results = []
    for scenario in SCENARIOS:
        print(f"  {scenario.name}", file=sys.stderr, flush=True)
        random.seed(chosen.seed)
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            results.append(runner.run(simulate(scenario, chosen)))
    print(table(results, chosen.nodes))
    if chosen.json:
        given = {key: value for key, value in vars(chosen).items() if key != "json"}
        written = {"simulation": given, "results": [asdict(result) for result in results]}
        chosen.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
