"""Fetching blobs from one registry, resumed whatever happens."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from cri_imaged.errors import Category, CorruptContentError, RegistryError
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.helpers import REPOSITORY, client, noise, read, resolve
from tests.support.leaks import MARK
from tests.support.registry import BLOB, Fault, FaultRegistry, cut, reset, stall, status

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


@pytest.mark.parametrize(
    "content_range", ["bytes 7-999999/1000000", "bytes 400000-999999/1000001", "nonsense"]
)
async def test_another_range_than_asked_for_is_not_believed(
    registry: FaultRegistry, content_range: str
) -> None:
    layer, _ = add_layer(registry)
    registry.faults.append(Fault(content_range=content_range, where=BLOB))
    async with client() as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises((RegistryError, CorruptContentError), match=r"range|1000001 bytes"):
            await read(fetcher, layer, 400_000)


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
    assert [seen.offset for seen in registry.gets(BLOB)] == [0, 1000, 2000, 3000, 4000]


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


async def test_silence_for_the_progress_timeout_ends_the_fetch(registry: FaultRegistry) -> None:
    layer, _ = add_layer(registry)
    registry.faults += [stall(400_000, where=BLOB, times=1), stall(0, where=BLOB)]
    async with client(progress_timeout=0.5, stall_timeout=0.2) as opened:
        fetcher = (await resolve(opened, registry)).fetcher
        with pytest.raises(
            RegistryError, match=r"0\.5 s \(image_pull_progress_timeout\)"
        ) as caught:
            await read(fetcher, layer)
    assert caught.value.category is Category.REGISTRY_UNAVAILABLE


async def test_a_body_may_be_silent_for_longer_than_headers(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry, 100_000)
    registry.faults.append(Fault(where=BLOB, pace=1.2))
    async with client(response_header_timeout=1.0) as opened:
        assert await read((await resolve(opened, registry)).fetcher, layer) == data
    assert len(registry.gets(BLOB)) == 1


async def test_a_slow_reader_is_no_silent_registry(registry: FaultRegistry) -> None:
    layer, data = add_layer(registry, 12_000_000)
    held = bytearray()
    async with client(progress_timeout=0.4, stall_timeout=0.2) as opened:
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
    (told,) = [entry for entry in logs if entry["event"] == "registry.wrong_bytes"]
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
