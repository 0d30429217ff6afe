"""What is counted of requests, and mirrors in the order of their latency."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from cri_imaged.ports import RateLimit
from cri_imaged.registry.hosts.host import Host, default_host
from cri_imaged.registry.http.head import Head
from cri_imaged.registry.http.rate_limit import rate_limit_of
from cri_imaged.registry.http.telemetry import MEASURED_SECONDS, Telemetry
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve, write_hosts
from tests.support.registry import MANIFEST, Fault, FaultRegistry, redirect, status

FIRST, SECOND, THIRD = (
    replace(default_host(f"{name}.example"), by_latency=True) for name in ("a", "b", "c")
)
REGISTRY = default_host("registry.example")
HEAD = Head(200, CIMultiDictProxy(CIMultiDict()), True)


@dataclass
class Counted:
    """A `RequestCounter` that keeps all it is told."""

    statuses: dict[str, list[int | None]] = field(default_factory=dict)
    limits: list[RateLimit] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    def answered(self, host: str, status: int | None, limit: RateLimit | None) -> None:
        self.statuses.setdefault(host, []).append(status)
        self.limits += [limit] if limit else []

    def retried(self, host: str) -> None:
        self.again.append(host)


async def test_requests_statuses_and_retries_by_host(tmp_path: Path) -> None:
    counted = Counted()
    async with FaultRegistry() as registry, FaultRegistry() as storage:
        data = noise(100)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        storage.share(registry)
        hub = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}
        registry.faults += [
            status(429, where=MANIFEST, times=1, headers={**hub, "Retry-After": "0"}),
            # The first of them ends a connection that was kept: that may be its age alone.
            Fault(where=MANIFEST, reset_after=-1, times=2),
        ]
        target = f"{storage.url}/v2/{REPOSITORY}/blobs/{layer.digest}"
        registry.faults.append(redirect(target, where="blob"))
        write_hosts(tmp_path, "registry.invalid", f'server = "{registry.url}"\n')
        async with client(config_path=tmp_path, counter=counted) as opened:
            resolved = await resolve(opened, "registry.invalid")
            assert await read(resolved.fetcher, layer) == data
        assert counted.statuses == {
            registry.authority: [429, None, 200, 307],
            storage.authority: [200],
        }
    assert counted.limits == [RateLimit(100, 76)]
    assert counted.again == [registry.authority] * 2


@pytest.mark.parametrize(
    ("most", "left", "found"),
    [
        ("100;w=21600", "76;w=21600", RateLimit(100, 76)),
        ("100", " 0 ", RateLimit(100, 0)),
        ("100;w=21600", None, None),
        ("-1", "3", None),
        ("many", "3", None),
        ("1" * 5000, "3", None),
    ],
)
def test_rate_limits(most: str, left: str | None, found: RateLimit | None) -> None:
    headers = CIMultiDict({"ratelimit-limit": most})
    if left is not None:
        headers["RATELIMIT-REMAINING"] = left
    assert rate_limit_of(headers) == found


@given(st.text(), st.text())
def test_whatever_a_registry_says_of_its_limit(most: str, left: str) -> None:
    rate_limit_of(CIMultiDict({"RateLimit-Limit": most, "RateLimit-Remaining": left}))


def names(hosts: tuple[Host, ...]) -> str:
    return "".join(host.authority[0] for host in hosts)


def test_mirrors_in_the_order_of_their_quickest_answer() -> None:
    now = 0.0
    telemetry = Telemetry(clock=lambda: now)
    hosts = (FIRST, SECOND, THIRD, REGISTRY)
    assert names(telemetry.in_order(hosts)) == "abcr"
    # Whoever was not measured yet comes first, so that all are.
    telemetry.answered("a.example", HEAD, 0.2)
    assert names(telemetry.in_order(hosts)) == "bcar"
    telemetry.answered("b.example", HEAD, 0.3)
    telemetry.answered("c.example", HEAD, 0.1)
    assert names(telemetry.in_order(hosts)) == "cabr"
    # One slow answer says less than a quick one.
    telemetry.answered("c.example", HEAD, 5.0)
    assert names(telemetry.in_order(hosts)) == "cabr"
    now += MEASURED_SECONDS + 1
    telemetry.answered("c.example", HEAD, 5.0)
    assert names(telemetry.in_order(hosts)) == "abcr"


def test_a_mirror_that_does_not_answer_comes_last() -> None:
    telemetry = Telemetry(clock=lambda: 0.0)
    telemetry.unanswered("a.example")
    telemetry.answered("b.example", HEAD, 0.3)
    telemetry.answered("c.example", HEAD, 0.2)
    assert names(telemetry.in_order((FIRST, SECOND, THIRD, REGISTRY))) == "cbar"
    # Where it answers otherwise, one failure says nothing of its latency.
    telemetry.unanswered("c.example")
    assert names(telemetry.in_order((FIRST, SECOND, THIRD, REGISTRY))) == "cbar"


def test_hosts_that_are_not_to_be_ordered_stay() -> None:
    telemetry = Telemetry()
    telemetry.answered("a.example", HEAD, 0.2)
    plain = replace(FIRST, by_latency=False)
    assert names(telemetry.in_order((plain, SECOND, REGISTRY))) == "abr"


def test_a_thousand_hosts_are_remembered_at_the_most() -> None:
    telemetry = Telemetry(clock=lambda: 0.0)
    telemetry.answered("a.example", HEAD, 0.2)
    for number in range(1000):
        telemetry.answered(f"{number}.example", HEAD, 0.1)
    assert names(telemetry.in_order((FIRST, SECOND))) == "ab"  # neither has been measured


async def test_a_mirror_that_was_measured_leaves_the_turn_to_one_that_was_not(
    tmp_path: Path,
) -> None:
    async with FaultRegistry() as first, FaultRegistry() as second:
        first.add_image(REPOSITORY, "latest")
        second.share(first)
        text = f'server = "http://127.0.0.1:1"\n[host."{first.url}"]\n[host."{second.url}"]\n'
        for order, asked in (("file", [2, 0]), ("latency", [1, 1])):
            for mirror in (first, second):
                mirror.seen.clear()
            write_hosts(tmp_path, "registry.invalid", f'order = "{order}"\n{text}')
            async with client(config_path=tmp_path) as opened:
                for _ in range(2):
                    await resolve(opened, "registry.invalid")
            assert [len(mirror.seen) for mirror in (first, second)] == asked
