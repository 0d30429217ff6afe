"""One budget of tries over several hosts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest

from cri_imaged.errors import Category, RegistryError
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.retry import RetryPolicy
from cri_imaged.registry.tries import UNHEALTHY_SECONDS, HostHealth, Tries

FIRST, SECOND, REGISTRY = (Host("https", name) for name in ("first", "second", "registry"))
QUICK = RetryPolicy(tries=3, seconds=5.0, base_seconds=0.001)


class Script:
    """Answers each host's calls, in order; the last answer stays."""

    def __init__(self, answers: dict[Host, Sequence[Kind | str]]) -> None:
        self._answers = {host: list(kinds) for host, kinds in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: Host) -> str:
        self.asked.append(host.authority)
        answers = self._answers[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Kind):
            raise HostFailure(answer, answer.value)
        return answer


async def run(
    script: Script,
    hosts: Sequence[Host] = (FIRST, SECOND, REGISTRY),
    policy: RetryPolicy = QUICK,
    health: HostHealth | None = None,
) -> str:
    tries = Tries(hosts, "cannot", policy, health or HostHealth())
    return await tries.run(script, lambda host: host.url("x"))


async def test_every_host_is_tried_once_before_any_is_tried_again() -> None:
    flaky = [Kind.UNREACHABLE, Kind.UNREACHABLE, "done"]
    script = Script(dict.fromkeys((FIRST, SECOND, REGISTRY), flaky))
    assert await run(script) == "done"
    assert script.asked[:3] == ["first", "second", "registry"]
    assert sorted(script.asked[3:6]) == ["first", "registry", "second"]
    assert len(script.asked) == 7


async def test_a_final_answer_takes_only_its_host_out() -> None:
    script = Script(
        {FIRST: [Kind.CORRUPT], SECOND: [Kind.UNREACHABLE, "done"], REGISTRY: [Kind.REFUSED]}
    )
    assert await run(script) == "done"
    assert script.asked == ["first", "second", "registry", "second"]


async def test_the_registrys_own_word_ends_the_tries() -> None:
    script = Script(
        {FIRST: [Kind.UNREACHABLE], SECOND: [Kind.UNREACHABLE], REGISTRY: [Kind.NOT_FOUND]}
    )
    with pytest.raises(RegistryError) as caught:
        await run(script)
    assert caught.value.category is Category.NOT_FOUND
    assert script.asked == ["first", "second", "registry"]


async def test_each_host_has_its_number_of_tries() -> None:
    script = Script({key: [Kind.UNREACHABLE] for key in (FIRST, REGISTRY)})
    with pytest.raises(RegistryError) as caught:
        await run(script, (FIRST, REGISTRY))
    assert sorted(script.asked) == ["first"] * 3 + ["registry"] * 3
    assert len(caught.value.attempts) == 6


async def test_the_last_attempts_are_reported() -> None:
    script = Script({REGISTRY: [Kind.UNREACHABLE]})
    with pytest.raises(RegistryError) as caught:
        await run(script, (REGISTRY,), RetryPolicy(tries=50, seconds=5.0, base_seconds=0.0))
    assert len(script.asked) == 50
    assert len(caught.value.attempts) == 20


async def test_a_call_that_hangs_ends_with_the_budget() -> None:
    called = 0

    async def hang(host: Host) -> str:
        nonlocal called
        called += 1
        if called == 1:
            raise HostFailure(Kind.UNREACHABLE, "refused")
        await asyncio.Event().wait()
        return "never"

    policy = RetryPolicy(tries=5, seconds=0.2, base_seconds=0.001)
    tries = Tries((REGISTRY,), "cannot", policy, HostHealth())
    with pytest.raises(RegistryError, match="time for tries was up") as caught:
        await tries.run(hang, lambda host: host.url("x"))
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert called == 2


async def test_a_host_that_answers_at_all_may_take_longer_than_the_budget() -> None:
    """A cache that fetches what it is asked for first."""
    called = 0

    async def fetches(host: Host) -> str:
        nonlocal called
        called += 1
        if called == 1:
            raise HostFailure(Kind.UNREACHABLE, "503 Service Unavailable", status=503)
        await asyncio.sleep(0.2)
        return "done"

    policy = RetryPolicy(tries=5, seconds=0.1, base_seconds=0.001)
    tries = Tries((REGISTRY,), "cannot", policy, HostHealth())
    assert await tries.run(fetches, lambda host: host.url("x")) == "done"
    assert called == 2


async def test_the_budget_begins_with_the_wait_that_failed_first() -> None:
    for waited, asked in ((QUICK.seconds, []), (0.0, ["registry"])):
        script = Script({REGISTRY: ["done"]})
        tries = Tries((REGISTRY,), "cannot", QUICK, HostHealth())
        silent = HostFailure(Kind.UNREACHABLE, "silent")
        now = time.monotonic()
        tries.failed(REGISTRY, silent, "", now - 1000.0, now - waited)
        with suppress(RegistryError):
            await tries.run(script, lambda host: host.url("x"))
        assert script.asked == asked


async def test_a_request_that_failed_waited_from_its_begin() -> None:
    tries = Tries((REGISTRY,), "cannot", QUICK, HostHealth())
    silent = HostFailure(Kind.UNREACHABLE, "silent")
    tries.failed(REGISTRY, silent, "", time.monotonic() - QUICK.seconds)
    assert tries.left == 0.0
    tries.progressed()
    assert tries.left is None


async def test_silent_mirrors_do_not_use_up_the_registrys_turn() -> None:
    called = []

    async def slow(host: Host) -> str:
        called.append(host)
        await asyncio.sleep(0.01)
        if host is REGISTRY:
            return "done"
        raise HostFailure(Kind.UNREACHABLE, "silent")

    policy = RetryPolicy(tries=5, seconds=0.001, base_seconds=0.0)
    tries = Tries((FIRST, SECOND, REGISTRY), "cannot", policy, HostHealth())
    assert await tries.run(slow, lambda host: host.url("x")) == "done"
    assert called == [FIRST, SECOND, REGISTRY]


async def test_a_host_that_failed_is_last_until_it_succeeds_or_time_passes() -> None:
    now = 0.0
    health = HostHealth(lambda: now)

    def hosts() -> Script:
        return Script({key: ["done"] for key in (FIRST, SECOND, REGISTRY)})

    health.failed(FIRST)
    script = hosts()
    await run(script, health=health)
    assert script.asked == ["second"]
    now = UNHEALTHY_SECONDS
    script = hosts()
    await run(script, health=health)
    assert script.asked == ["first"]
    health.failed(FIRST)
    health.succeeded(FIRST)
    assert not health.is_suspect(FIRST)


async def test_where_all_are_suspect_the_order_stays() -> None:
    health = HostHealth()
    for host in (REGISTRY, SECOND, FIRST):
        health.failed(host)
    script = Script({key: ["done"] for key in (FIRST, SECOND, REGISTRY)})
    await run(script, health=health)
    assert script.asked == ["first"]


def test_only_so_many_hosts_are_remembered() -> None:
    now = 0.0
    health = HostHealth(lambda: now)
    for number in range(3000):
        now += 1.0
        health.failed(Host("https", str(number)))
    assert health.is_suspect(Host("https", "2999"))
    assert not health.is_suspect(Host("https", "2000"))
