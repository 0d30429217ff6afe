"""The history of pulls: what is counted, what a report says, and what survives."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from cri_imaged.errors import Attempt, Category, ImagedError, NoSpaceError, RegistryError
from cri_imaged.images import history as module
from cri_imaged.images.events import PullEnded
from cri_imaged.images.history import PullHistory
from cri_imaged.images.reports import LayerReport, PullReport, reason_of
from cri_imaged.images.timeline import Stage, Timeline
from cri_imaged.limits import (
    LISTED_REPORTS_BYTES,
    PULL_COUNTS,
    PULL_REPORTS,
    REPORT_BYTES,
    REPORTED_LAYERS,
)
from cri_imaged.metadata import history
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account, PullCount
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support.registry import BLOB, redirect, status


@asynccontextmanager
async def writing(history: PullHistory) -> AsyncIterator[None]:
    """What the daemon does in the background."""
    task = asyncio.create_task(history.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_pulls_are_counted_by_name_image_and_whether_they_fetched(
    bench: Bench, registry: GatedRegistry
) -> None:
    first = serve(registry, image_of(layer(1), layer(2)))
    await bench.pull()
    await bench.pull()
    serve(registry, image_of(layer(3)))
    await bench.pull()
    with pytest.raises(RegistryError):
        await bench.pull("nowhere")
    counts = await bench.parts.history.counts(bench.name())
    assert [(each.pulls, each.fetched, each.name) for each in counts] == [
        (1, 1, bench.name()),
        (2, 1, bench.name()),
    ]
    assert counts[1].bytes == sum(each.size for each in first.layers)
    assert counts[1].first <= counts[1].last <= counts[0].first
    assert counts[0].image_id == bench.parts.store.all()[-1].id
    [report] = await bench.parts.history.reports(bench.name("nowhere"), 1)
    assert [each.status for each in report.account.failures] == [404]
    [failed] = await bench.parts.history.counts(bench.name("nowhere"))
    assert (failed.image_id, failed.pulls) == ("", 1)
    by_id = await bench.parts.history.counts(counts[0].image_id)
    assert by_id == counts[:1]
    assert len(await bench.parts.history.counts("")) == 3


async def test_counts_and_reports_survive_a_restart_and_the_images_removal(
    tmp_path: Path, registry: GatedRegistry
) -> None:
    serve(registry, image_of(layer(1)))
    async with Bench.open(tmp_path / "root", registry) as bench, writing(bench.parts.history):
        pulled = await bench.pull()
        await bench.parts.remover.remove(pulled.image.id)
    async with Bench.open(tmp_path / "root", registry) as bench:
        [count] = await bench.parts.history.counts(bench.name())
        assert (count.pulls, count.image_id) == (1, pulled.image.id)
        [report] = await bench.parts.history.reports(bench.name(), 0)
        assert report.outcome == "success"


async def test_what_ended_is_written_within_five_seconds(
    bench: Bench, registry: GatedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._WRITE_SECONDS < 5
    monkeypatch.setattr(module, "_WRITE_SECONDS", 0.01)
    serve(registry, image_of(layer(1)))
    async with writing(bench.parts.history):
        await bench.pull()
        async with asyncio.timeout(10):
            while not bench.rows("SELECT * FROM pull_reports"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_report_says_when_each_layer_was_fetched_unpacked_and_sealed(
    bench: Bench, registry: GatedRegistry
) -> None:
    put = serve(registry, image_of(layer(1, 50_000), layer(2)))
    registry.faults.append(status(503, where=BLOB, reference=put.layers[0].digest, times=1))
    await bench.pull()
    [report] = await bench.parts.history.reports(bench.name(), 1)
    assert [stage.name for stage in report.stages] == ["waiting", "resolving", "fetching", "done"]
    assert report.hosts == (registry.authority,)
    assert report.retries == 1
    lower, upper = report.layers
    [failure] = lower.account.failures
    assert (failure.host, failure.status) == (registry.authority, 503)
    for each, size in ((lower, put.layers[0].size), (upper, put.layers[1].size)):
        assert each.source == "fetched"
        assert each.account.hosts == {registry.authority: size}
        names = [stage.name for stage in each.stages]
        assert names == [
            "waiting",
            "fetching",
            "waiting to unpack",
            "unpacking",
            "waiting for the layer below",
            "sealing",
        ]
        for stage in each.stages:
            assert 0 <= stage.began <= stage.began + stage.seconds <= report.seconds + 0.01
    sealed = {each.digest: each.stages[-1].began for each in report.layers}
    assert sealed[lower.digest] <= sealed[upper.digest]

    serve(registry, image_of(layer(3)), "other")
    await bench.pull()
    [again] = await bench.parts.history.reports(bench.name(), 1)
    assert {each.source for each in again.layers} == {"unpacked"}
    assert (again.received, again.reused) == (0, sum(each.size for each in put.layers))


async def test_a_layer_that_another_pull_fetches_is_told_as_shared(
    bench: Bench, registry: GatedRegistry
) -> None:
    image = image_of(layer(1, 10_000))
    put = serve(registry, image)
    serve(registry, image, repository="other/one")
    gate = registry.hold(put.layers[0].digest, 100)
    first = bench.start()
    await registry.held(gate)
    second = bench.start_in("other/one")
    await until(
        lambda: len(bench.parts.running.list()) == 2 and bench.parts.running.list()[1].layers
    )
    gate.opened.set()
    await asyncio.gather(first, second)
    reports = await bench.parts.history.reports("", 2)
    assert sorted(report.layers[0].source for report in reports) == ["fetched", "shared"]


async def test_signed_addresses_are_in_no_report(bench: Bench, registry: GatedRegistry) -> None:
    put = serve(registry, image_of(layer(1)))
    target = f"http://{registry.authority}/nowhere?X-Amz-Signature=secret-of-the-url"
    registry.faults.append(redirect(target, where=BLOB, reference=put.layers[0].digest))
    with pytest.raises(ImagedError):
        await bench.pull()
    [report] = await bench.parts.history.reports(bench.name(), 1)
    assert report.outcome == "failure"
    assert "secret-of-the-url" not in str(bench.rows("SELECT report FROM pull_reports"))
    assert report.layers[0].account.failed > 0


# --- limits ---------------------------------------------------------------------------------------


def ended(number: int, **more: object) -> PullEnded:
    report = PullReport(f"a/b:{number}", "", float(number), 1.0, "success", **more)  # type: ignore[arg-type]
    return PullEnded(str(number), report)


async def test_so_many_are_kept_and_no_more(bench: Bench) -> None:
    def fill(db: sqlite3.Connection) -> None:
        for n in range(PULL_COUNTS + 5):
            history.count(db, PullCount(f"n{n}", "", "i", 1, 0, 0, float(n), float(n)))
        for n in range(PULL_REPORTS + 5):
            history.add_report(db, f"n{n}", "", b"")
        history.forget(db, counts=PULL_COUNTS, reports=PULL_REPORTS)

    await bench.parts.base.stores.database.write(fill)
    assert bench.rows("SELECT count(*), min(first) FROM pull_counts") == [(PULL_COUNTS, 5.0)]
    assert bench.rows("SELECT count(*), min(name) FROM pull_reports") == [(PULL_REPORTS, "n10")]


async def test_a_report_of_very_many_layers_tells_of_those_that_took_longest(bench: Bench) -> None:
    layers = tuple(
        LayerReport(
            Digest.of(str(n).encode()), n, "fetched", "", (Stage("fetching", 0.0, float(n)),)
        )
        for n in range(500)
    )
    bench.parts.history.hear(ended(1, layers=layers, error="x" * 100_000))
    [report] = await bench.parts.history.reports("", 0)
    assert report.layers == layers[-REPORTED_LAYERS:]
    assert report.layers_left_out == 500 - REPORTED_LAYERS
    assert len(report.error) < 10_000


async def test_a_report_of_long_failures_tells_of_fewer_layers(bench: Bench) -> None:
    failures = [Attempt("host", "u" * 1000, "o" * 1000, 1.0)] * 10
    layers = tuple(
        LayerReport(Digest.of(str(n).encode()), n, "fetched", account=Account({}, failures, 10))
        for n in range(50)
    )
    bench.parts.history.hear(ended(1, layers=layers))
    [report] = await bench.parts.history.reports("", 0)
    assert 0 < len(report.layers) < 10
    assert report.layers_left_out == 50 - len(report.layers)
    [(size,)] = bench.rows("SELECT length(report) FROM pull_reports")
    assert size <= REPORT_BYTES


async def test_an_answer_lists_so_many_bytes_of_reports_the_newest(bench: Bench) -> None:
    failures = [Attempt("host", "u" * 1000, "o" * 4000, 1.0)] * 10
    for number in range(100):
        bench.parts.history.hear(ended(number, account=Account({}, failures, 10)))
    listed = await bench.parts.history.reports("", 0)
    [(kept, size)] = bench.rows("SELECT count(*), max(length(report)) FROM pull_reports")
    assert kept == 100
    assert len(listed) == LISTED_REPORTS_BYTES // size < 100
    assert listed[0].reference == "a/b:99"


async def test_a_report_of_another_version_is_passed_over(bench: Bench) -> None:
    bench.parts.history.hear(ended(1))
    await bench.parts.history.counts("")
    await bench.parts.base.stores.database.write(
        lambda db: history.add_report(db, "a/b:2", "", b'{"form": "unknown"}')
    )
    assert [each.reference for each in await bench.parts.history.reports("", 0)] == ["a/b:1"]


async def test_what_a_full_disk_refuses_is_written_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = bench.parts.base.stores.database
    with monkeypatch.context() as patched:

        async def refuse(*_: object, **__: object) -> None:
            raise NoSpaceError("no space")

        patched.setattr(database, "write", refuse)
        bench.parts.history.hear(ended(1))
        await bench.parts.history._try_to_write()
    assert [each.reference for each in await bench.parts.history.reports("", 0)] == ["a/b:1"]


async def test_pulls_are_written_down_though_the_database_failed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WRITE_SECONDS", 0.0)
    database, history = bench.parts.base.stores.database, bench.parts.history

    async with writing(history):
        await database.write(lambda db: db.execute("ALTER TABLE pull_reports RENAME TO away"))
        with structlog.testing.capture_logs() as log:
            history.hear(ended(1))
            await until(lambda: bool(log))
        await database.write(lambda db: db.execute("ALTER TABLE away RENAME TO pull_reports"))
        history.hear(ended(2))
        await until(lambda: bench.rows("SELECT count(*) FROM pull_reports") == [(1,)])


@asynccontextmanager
async def held_up(bench: Bench) -> AsyncIterator[None]:
    """The database has something else to do."""
    gate = threading.Event()
    busy = asyncio.ensure_future(
        bench.parts.base.stores.database.read(lambda db: gate.wait(timeout=60))
    )
    try:
        yield
    finally:
        gate.set()
        await busy


async def test_a_client_that_goes_during_a_write_has_nothing_counted_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate, encoded = threading.Event(), threading.Event(), module._encoded

    def slowly(report: PullReport) -> bytes:
        begun.set()
        gate.wait(timeout=60)
        return encoded(report)

    monkeypatch.setattr(module, "_encoded", slowly)
    kept = bench.parts.history
    kept.hear(ended(1))
    asking = asyncio.create_task(kept.counts(""))
    await asyncio.to_thread(begun.wait)
    asking.cancel()
    gate.set()
    await asyncio.wait([asking])
    assert asking.cancelled()
    [count] = await kept.counts("")
    assert count.pulls == 1
    assert len(await kept.reports("", 0)) == 1


async def test_what_ends_during_a_write_is_written_by_the_next_one(bench: Bench) -> None:
    kept = bench.parts.history
    kept.hear(ended(1))
    async with held_up(bench):
        asking = asyncio.create_task(kept.counts(""))
        await until(kept._writing.locked)
        for _ in range(PULL_REPORTS):
            kept.hear(ended(1))
    await asking
    [count] = await kept.counts("")
    assert count.pulls == 1 + PULL_REPORTS


def test_reasons() -> None:
    limited = RegistryError(
        Category.REGISTRY_UNAVAILABLE, "x", (Attempt("h", "u", "429", 1.0, 429),)
    )
    assert reason_of(None) == ""
    assert reason_of(asyncio.CancelledError()) == "cancelled"
    assert reason_of(NoSpaceError("x")) == "disk"
    assert reason_of(limited) == "rate_limit"
    assert reason_of(RegistryError(Category.REGISTRY_UNAVAILABLE, "x", ())) == "network"
    assert reason_of(RegistryError(Category.PERMISSION_DENIED, "x", ())) == "auth"
    assert reason_of(ValueError()) == "internal"


def test_a_timeline_begins_with_the_pull() -> None:
    now = [10.0]
    timeline = Timeline(lambda: now[0])
    timeline.enter("one")
    now[0] = 12.0
    timeline.enter("two")
    now[0] = 15.0
    assert timeline.since(11.0) == (Stage("one", 0.0, 1.0), Stage("two", 1.0, 3.0))
    timeline.end()
    now[0] = 20.0
    assert timeline.since(14.0) == (Stage("one", 0.0, 0.0), Stage("two", 0.0, 1.0))
