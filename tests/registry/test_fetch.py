"""Fetching blobs from one registry, resumed whatever happens."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

import pytest
import structlog

from cri_imaged.errors import Category, CorruptContentError, RegistryError
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.registry.http.connection import ReceiveBuffer
from cri_imaged.registry.retry import RetryPolicy
from tests.images.workbench import until
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve
from tests.support.leaks import MARK
from tests.support.registry import BLOB, Fault, FaultRegistry, cut, redirect, reset, stall, status

SIZE = 1_000_000


@pytest.fixture
async def registry():
    async with FaultRegistry() as running:
        yield running


def add_layer(registry: FaultRegistry, size: int = SIZE) -> tuple[Descriptor, bytes]:
    data = noise(size)
    return registry.add_image(REPOSITORY, "latest", [data]).layers[0], data


@pytest.mark.parametrize("offset", [0, 1, SIZE - 1, SIZE])
async def test_from_an_offset(registry: FaultRegistry, offset: int) -> None:
    layer, data = add_layer(registry)
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, offset) == data[offset:]
    assert [seen.offset for seen in registry.gets(BLOB)] == ([offset] if offset < SIZE else [])


async def test_an_empty_blob(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry, 0)
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == b""


@pytest.mark.parametrize(
    "fault",
    [
        cut(400_000, where=BLOB, times=1),
        cut(300_000, where=BLOB, times=3),
        reset(400_000, where=BLOB, times=1),
        reset(-1, where=BLOB, times=2),
        stall(400_000, where=BLOB, times=1),
        Fault(cut_after=400_000, no_length=True, where=BLOB, times=1),
        Fault(transform=lambda data: data[:-5], no_length=True, where=BLOB, times=1),
    ],
    ids=["cut", "cut thrice", "reset", "reset at once", "stalled", "cut chunked", "short"],
)
async def test_a_body_that_breaks_off_is_resumed_at_the_offset(
    registry: FaultRegistry, fault: Fault
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(fault)
    async with client(stall_timeout=0.3) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    first, *rest = registry.gets(BLOB)
    assert first.offset == 0
    assert rest
    if fault.reset_after != -1:
        assert all(seen.offset > 0 for seen in rest)


async def test_a_trickle_is_resumed(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry, 5_000)
    registry.faults.append(Fault(trickle=0.05, where=BLOB, times=1))
    async with client(stall_timeout=0.4, min_rate_bytes_per_second=1000) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 2
    assert registry.gets(BLOB)[1].offset > 0


async def test_a_trickle_is_borne_where_there_is_no_minimum_rate(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry, 40)
    registry.faults.append(Fault(trickle=0.02, where=BLOB))
    async with client(stall_timeout=0.3, min_rate_bytes_per_second=0) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 1


async def test_a_server_that_ignores_ranges(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(cut(400_000, where=BLOB, times=1))
    registry.faults.append(Fault(ignore_range=True, where=BLOB))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer) == data
        assert await read(fetcher, layer, 999_999) == data[-1:]


REFUSALS = {
    **{f"{code}": status(code) for code in (400, 401, 403, 404, 405, 416, 500, 501, 503, 202, 204)},
    "a redirect to nowhere": status(302),
    "a redirect to itself": redirect(""),
    "a redirect to another protocol": redirect("ftp://example.test/x"),
    "no range": Fault(drop_headers=["Content-Range"]),
    "another range": Fault(content_range="bytes 7-999999/1000000"),
    "a shorter range": Fault(content_range="bytes 400000-500000/1000000"),
    "another size": Fault(content_range="bytes 400000-999999/1000001"),
    "an odd unit": Fault(content_range="octets 400000-999999/1000000"),
    "several parts": Fault(
        drop_headers=["Content-Range"],
        headers={"Content-Type": "multipart/byteranges; boundary=x"},
        transform=lambda data: b"--x\r\n\r\n" + data,
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("chunks", [0, 150_000])
async def test_a_refused_range_falls_back_to_the_whole(
    registry: FaultRegistry, refusal: Fault, chunks: int
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(replace(refusal, where=BLOB, ranged=True))
    async with client(concurrent_layer_fetch_buffer=chunks, policy=RetryPolicy(1, 1.0)) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]


@pytest.mark.parametrize("code", [403, 404, 416, 503])
async def test_a_download_that_breaks_off_where_ranges_are_refused(
    registry: FaultRegistry, code: int
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(cut(400_000, where=BLOB, times=1))
    registry.faults.append(status(code, where=BLOB, ranged=True))
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (401, Category.UNAUTHENTICATED),
        (403, Category.PERMISSION_DENIED),
        (404, Category.NOT_FOUND),
        (503, Category.REGISTRY_UNAVAILABLE),
    ],
)
async def test_what_is_told_is_the_answer_to_the_whole(
    registry: FaultRegistry, code: int, category: Category
) -> None:
    layer, _ = add_layer(registry)
    registry.faults.append(status(416, where=BLOB, ranged=True))
    registry.faults.append(status(code, where=BLOB))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises(RegistryError) as caught:
            await read(fetcher, layer, 400_000)
    assert caught.value.category is category
    assert {attempt.status for attempt in caught.value.attempts} == {code}


async def test_a_host_that_is_busy_for_a_moment_is_asked_for_the_range_again(
    registry: FaultRegistry,
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(status(503, where=BLOB, ranged=True, times=1))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]
    assert [seen.offset for seen in registry.gets(BLOB)] == [400_000, 0, 400_000]


@pytest.mark.parametrize(
    "fault",
    [reset(-1), stall(-1), reset(0), cut(0), stall(0)],
    ids=["reset", "silent", "reset after the headers", "no body", "silent after the headers"],
)
async def test_a_host_that_goes_away_at_a_range_is_asked_for_the_whole(
    registry: FaultRegistry, fault: Fault
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(replace(fault, where=BLOB, ranged=True))
    async with client(stall_timeout=0.2, response_header_timeout=0.2) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]
    assert registry.gets(BLOB)[0].offset == 400_000
    assert 0 in [seen.offset for seen in registry.gets(BLOB)][:3]


async def test_a_host_that_was_away_for_a_moment_is_asked_for_the_range_again(
    registry: FaultRegistry,
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(stall(-1, where=BLOB, times=1))
    async with client(response_header_timeout=0.2) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]
    assert [seen.offset for seen in registry.gets(BLOB)] == [400_000, 0, 400_000]


async def test_who_leaves_while_a_range_is_asked_for_again_leaves_no_connection_open(
    registry: FaultRegistry,
) -> None:
    """That of the whole, which was answered already: what it has received would count as held for
    ever, and less be received at once by all others."""
    layer, _ = add_layer(registry, 20 * SIZE)
    registry.faults.append(status(503, where=BLOB, ranged=True, times=1))
    registry.faults.append(stall(-1, where=BLOB, ranged=True))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        fetching = asyncio.create_task(read(fetcher, layer, 400_000))
        await until(lambda: len(registry.gets(BLOB)) == 3)
        fetching.cancel()
        await asyncio.wait({fetching})
        del fetching
        gc.collect()
        buffers = [each for each in gc.get_objects() if isinstance(each, ReceiveBuffer)]
        assert {each.held for each in buffers} == {0}


async def test_a_host_that_always_asks_for_a_pause_at_a_range_is_asked_for_the_whole(
    registry: FaultRegistry,
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(status(429, where=BLOB, ranged=True))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]
    assert [seen.offset for seen in registry.gets(BLOB)][:3] == [400_000, 400_000, 0]


@pytest.mark.parametrize(
    "fault",
    [cut(100), Fault(ignore_range=True, no_length=True, transform=lambda data: data[:1000])],
    ids=["a little of the range", "a whole that ends before it"],
)
async def test_a_host_whose_answers_to_ranges_bring_next_to_nothing_is_asked_for_the_whole(
    registry: FaultRegistry, fault: Fault
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(replace(fault, where=BLOB, ranged=True))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]


async def test_storage_behind_a_redirect_that_refuses_ranges(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    async with FaultRegistry() as storage, client() as opened:
        storage.share(registry)
        registry.faults.append(redirect(f"{storage.url}/v2/x/blobs/{layer.digest}", where=BLOB))
        storage.faults.append(status(403, ranged=True))
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]


async def test_who_asks_too_often_is_not_asked_for_the_whole(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(status(429, where=BLOB, times=1))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, 400_000) == data[400_000:]
    assert [seen.offset for seen in registry.gets(BLOB)] == [400_000, 400_000]


async def test_no_content_length(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(Fault(no_length=True, where=BLOB))
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_long_is_cut_off(registry: FaultRegistry, announced: bool) -> None:
    layer, _ = add_layer(registry)
    registry.faults.append(
        Fault(transform=lambda data: data + b"x" * 500_000, no_length=not announced, where=BLOB)
    )
    held = 0
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher

        async def consume() -> None:
            nonlocal held
            async with fetcher.fetch(layer) as stream:
                async for chunk in stream:
                    held += len(chunk)

        with pytest.raises(CorruptContentError, match=r"offers 1500000|more than the 1000000"):
            await consume()
    assert held <= SIZE


async def test_a_body_that_is_longer_by_its_last_chunk_is_cut_off(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry, 64 << 10)
    registry.faults.append(
        Fault(transform=lambda data: data + b"x", no_length=True, pace=0.05, where=BLOB)
    )
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises(CorruptContentError, match="more than the 65536 bytes"):
            await read(fetcher, layer)


async def test_a_blob_that_is_gone(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    registry.blobs.clear()
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises(RegistryError, match="BLOB_UNKNOWN") as caught:
            await read(fetcher, layer)
    assert caught.value.category is Category.NOT_FOUND
    assert layer.digest in str(caught.value)


async def test_a_registry_that_never_recovers_ends_the_fetch(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    registry.faults.append(cut(1_000, where=BLOB))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises(RegistryError) as caught:
            await read(fetcher, layer)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE
    assert len(registry.gets(BLOB)) == 5
    # The last one is for the whole: that might work where ranges do not.
    assert [seen.offset for seen in registry.gets(BLOB)] == [0, 1000, 2000, 3000, 0]


async def test_progress_makes_the_budget_whole_again(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(cut(100_000, where=BLOB))
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 10


async def test_a_silent_body_ends_with_the_budget(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    registry.faults += [status(500, where=BLOB, times=1), stall(0, where=BLOB)]
    policy = RetryPolicy(tries=5, seconds=1.0, base_seconds=0.01)
    async with client(policy=policy, stall_timeout=600.0) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        async with asyncio.timeout(15):
            with pytest.raises(RegistryError, match="the body stalled"):
                await read(fetcher, layer)


async def test_a_body_that_comes_has_all_the_patience_again(registry: FaultRegistry) -> None:
    """What was left of the budget when it was asked for bounds only the wait for it."""
    layer, data = add_layer(registry, 100_000)
    registry.faults += [status(500, where=BLOB, times=1), Fault(where=BLOB, pace=2.5)]
    policy = RetryPolicy(tries=5, seconds=2.0, base_seconds=0.01)
    async with client(policy=policy) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert [seen.offset for seen in registry.gets(BLOB)] == [0, 0]


async def test_a_slow_reader_does_not_use_up_the_budget(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(cut(400_000, where=BLOB, times=1))
    held = bytearray()
    policy = RetryPolicy(tries=5, seconds=2.0, base_seconds=0.01)
    async with client(policy=policy) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        async with fetcher.fetch(layer) as stream:
            async for chunk in stream:
                held += chunk
                if len(held) == 400_000:
                    await asyncio.sleep(2.2)
    assert bytes(held) == data


async def test_a_body_may_be_silent_for_longer_than_headers(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry, 100_000)
    registry.faults.append(Fault(where=BLOB, pace=1.2))
    async with client(response_header_timeout=1.0) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 1


async def test_a_slow_reader_is_no_silent_registry(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry, 12_000_000)
    held = bytearray()
    async with client(stall_timeout=0.2) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        async with fetcher.fetch(layer) as stream:
            async for chunk in stream:
                if not held:
                    await asyncio.sleep(1.0)
                held += chunk
    assert bytes(held) == data
    assert len(registry.gets(BLOB)) == 1


async def test_leaving_early_lets_go_of_the_connection(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry, 20_000_000)
    async with client() as opened:
        async with (await resolve(opened, registry)).fetcher.fetch(layer) as stream:
            async for _chunk in stream:
                break
        await registry.until(lambda: registry.active == 0)


async def test_wrong_bytes_are_the_end_of_the_only_host(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        async with fetcher.fetch(layer) as stream:
            async for _chunk in stream:
                pass
            stream.discredit()
        with pytest.raises(CorruptContentError, match="every host delivered something else"):
            await read(fetcher, layer)


@pytest.mark.parametrize("chunks", [0, 150_000])
async def test_a_host_whose_ranges_are_wrong_is_asked_for_the_whole(
    registry: FaultRegistry, chunks: int
) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(cut(400_000, where=BLOB, times=1))
    registry.faults.append(
        Fault(transform=lambda whole: bytes(len(whole)), where=BLOB, ranged=True)
    )
    async with client(concurrent_layer_fetch_buffer=chunks) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        async with fetcher.fetch(layer) as stream:
            wrong = b"".join([chunk async for chunk in stream])
            stream.discredit()
        assert wrong != data
        assert await read(fetcher, layer) == data


async def test_a_signed_url_that_expired_is_asked_for_again(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    async with FaultRegistry() as storage:
        storage.share(registry)
        storage.faults.append(status(403, times=1))
        target = f"{storage.url}/v2/x/blobs/{layer.digest}?signature={MARK}"
        registry.faults.append(status(307, headers={"Location": target}, where=BLOB))
        async with client() as opened:
            assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 2


# --- foreign layers -------------------------------------------------------------------------


async def test_a_foreign_layer_comes_from_its_own_url(registry: FaultRegistry) -> None:
    data = noise(1000)
    registry.add_image(REPOSITORY, "latest")
    async with FaultRegistry() as elsewhere:
        blob = elsewhere.add_blob(data)
        foreign = Descriptor(
            media_types.DOCKER_FOREIGN_LAYER_GZIP,
            blob.digest,
            blob.size,
            urls=("ftp://nowhere", "http://[", f"{elsewhere.url}/v2/x/blobs/{blob.digest}"),
        )
        async with client(headers={"X-Configured": [MARK]}) as opened:
            assert await read((await resolve(opened, registry)).fetcher, foreign) == data
        assert "x-configured" not in elsewhere.seen[0].headers
    assert registry.seen[0].headers["x-configured"] == MARK
    assert registry.gets(BLOB) == []


async def test_a_foreign_layer_whose_url_fails_comes_from_the_registry(
    registry: FaultRegistry,
) -> None:
    layer, data = add_layer(registry)
    urls = (f"{registry.url}/nothing/here",)
    foreign = Descriptor(media_types.OCI_FOREIGN_LAYER, layer.digest, layer.size, urls=urls)
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, foreign) == data


async def test_urls_of_a_foreign_layer_that_are_none_are_passed_over(
    registry: FaultRegistry,
) -> None:
    plain, data = add_layer(registry)
    urls = ("http://[", "http://a:99999/x", "http://ä..a/x", "x", f"{registry.url}/x")
    kind = next(iter(media_types.FOREIGN_LAYERS))
    layer = Descriptor(kind, plain.digest, plain.size, urls=urls)
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert "/x" in [seen.path for seen in registry.seen]


async def test_urls_of_other_layers_are_not_followed(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    plain = Descriptor(layer.media_type, layer.digest, layer.size, urls=(f"{registry.url}/x",))
    async with client() as opened:
        assert await read((await resolve(opened, registry)).fetcher, plain) == data
    assert "/x" not in [seen.path for seen in registry.seen]


# --- chunks ---------------------------------------------------------------------------------

CHUNKS = {"concurrent_layer_fetch_buffer": 100_000, "concurrent_layer_fetch_requests": 3}


@pytest.mark.parametrize("offset", [0, 150_001, SIZE - 50_000])
async def test_chunks_are_delivered_in_order(registry: FaultRegistry, offset: int) -> None:
    layer, data = add_layer(registry)
    async with client(**CHUNKS) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        assert await read(fetcher, layer, offset) == data[offset:]
    wanted = -(-(SIZE - offset) // 100_000)
    assert sorted(seen.offset for seen in registry.gets(BLOB)) == [
        offset + number * 100_000 for number in range(wanted)
    ]
    assert registry.most_active <= 3


async def test_chunks_of_a_registry_that_fails_now_and_then(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults += [
        cut(5_000, where=BLOB, times=3),
        status(503, where=BLOB, times=2),
        reset(70_000, where=BLOB, times=3),
    ]
    async with client(**CHUNKS) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data


async def test_wrong_bytes_in_many_chunks_are_told_once(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    async with client(**CHUNKS) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with structlog.testing.capture_logs() as logs:
            async with fetcher.fetch(layer) as stream:
                async for _ in stream:
                    pass
                stream.discredit()
    (told,) = [entry for entry in logs if entry["event"] == "registry sent wrong bytes"]
    assert told["hosts"] == [registry.authority]


async def test_no_chunks_where_ranges_are_ignored(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(Fault(ignore_range=True, where=BLOB))
    async with client(**CHUNKS) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 1


async def test_chunks_of_a_registry_that_ignores_some_ranges(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry)
    registry.faults.append(Fault(ignore_range=True, where=BLOB, skip=3, times=2))
    async with client(**CHUNKS) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data


async def test_a_chunk_that_fails_for_good_ends_all(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    registry.faults.append(status(404, where=BLOB, skip=4))
    async with client(**CHUNKS) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises(RegistryError) as caught:
            await read(fetcher, layer)
        assert caught.value.category is Category.NOT_FOUND
        await registry.until(lambda: registry.active == 0)


async def test_cancelling_ends_all_chunks(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    registry.faults.append(stall(1_000, where=BLOB))
    async with client(**CHUNKS, policy=RetryPolicy(5, 60.0)) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        task = asyncio.create_task(read(fetcher, layer))
        await registry.until(lambda: registry.active == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [task for task in asyncio.all_tasks() if "_whole" in repr(task.get_coro())] == []
