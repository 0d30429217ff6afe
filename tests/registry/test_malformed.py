"""Servers that say what HTTP does not allow, or say it without end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cri_imaged.errors import RegistryError
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.helpers import REPOSITORY, client, noise, resolve, speaking, write_hosts
from tests.support.registry import BLOB, FaultRegistry, redirect

ONCE = RetryPolicy(tries=1, seconds=20.0)


async def test_a_malformed_chunk_does_not_hang_the_fetch() -> None:
    """The library closes the connection and tells nobody who reads."""
    begun = asyncio.Event()
    data = noise(100_000)

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3e8\r\n" + data[:1000] + b"\r\n")
        await begun.wait()
        writer.write(b"nonsense\r\n")

    async with FaultRegistry() as registry, speaking(answer) as broken:
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        registry.faults.append(redirect(f"http://{broken}/", where=BLOB, times=1))
        held = bytearray()
        async with asyncio.timeout(20), client(stall_timeout=0.3) as opened:
            fetcher = (await resolve(opened, registry)).fetcher
            async with fetcher.fetch(layer) as stream:
                async for chunk in stream:
                    held += chunk
                    begun.set()
        assert bytes(held) == data
        assert [seen.offset for seen in registry.gets(BLOB)] == [0, 1000]


async def test_headers_that_trickle_time_out(tmp_path: Path) -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with speaking(answer) as slow:
        write_hosts(tmp_path, slow, f'server = "http://{slow}"\ndial_timeout = "500ms"')
        options = {"response_header_timeout": 0.5, "policy": ONCE, "config_path": tmp_path}
        async with asyncio.timeout(20), client(**options) as opened:  # type: ignore[arg-type]
            with pytest.raises(RegistryError, match="no response headers within"):
                await resolve(opened, slow)
