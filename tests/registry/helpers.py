"""What the client's tests share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials, Fetcher, RequestCounter, Resolved
from cri_imaged.registry.auth.schemes import Schemes
from cri_imaged.registry.distribution import DistributionClient
from cri_imaged.registry.options import RegistryOptions
from cri_imaged.registry.retry import RetryPolicy
from tests.support.registry import FaultRegistry

QUICK = RetryPolicy(tries=5, seconds=20.0, base_seconds=0.01)
REPOSITORY = "library/demo"


@asynccontextmanager
async def client(
    *,
    config_path: Path | str = "",
    limits: Limits | None = None,
    policy: RetryPolicy = QUICK,
    environ: Mapping[str, str] | None = None,
    schemes: Schemes | None = None,
    counter: RequestCounter | None = None,
    **options: object,
) -> AsyncIterator[DistributionClient]:
    """A client that loses no time between tries and sees no proxies."""
    table = RegistryOptions(config_path=str(config_path), **options)  # type: ignore[arg-type]
    async with DistributionClient(
        table,
        limits or Limits(),
        policy=policy,
        environ=environ or {},
        schemes=schemes,
        counter=counter,
    ) as opened:
        yield opened


def reference(registry: FaultRegistry | str, name: str = REPOSITORY + ":latest") -> Reference:
    """A reference at `registry`."""
    authority = registry if isinstance(registry, str) else registry.authority
    return Reference.parse(f"{authority}/{name}")


async def resolve(
    opened: DistributionClient,
    registry: FaultRegistry | str,
    credentials: Credentials | None = None,
    name: str = REPOSITORY + ":latest",
    known: Descriptor | None = None,
) -> Resolved:
    """Resolve the demo image."""
    return await opened.resolve(reference(registry, name), credentials, known)


def text_of(resolved: Resolved) -> bytes:
    """The document that was answered."""
    assert resolved.document is not None
    resolved.document.seek(0)
    return resolved.document.read()


async def read(fetcher: Fetcher, descriptor: Descriptor, offset: int = 0) -> bytes:
    """All bytes of one fetch."""
    held = bytearray()
    async with fetcher.fetch(descriptor, offset) as stream:
        async for chunk in stream:
            held += chunk
    return bytes(held)


@asynccontextmanager
async def speaking(
    answer: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that says what no HTTP library would: `answer` is given the head of each request
    and the connection, which is closed afterwards. Yields the authority."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await answer(await reader.readuntil(b"\r\n\r\n"), writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def write_hosts(root: Path, registry: str, text: str) -> Path:
    """Write a `hosts.toml`; returns its path."""
    folder = root / registry
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "hosts.toml"
    file.write_text(text)
    return file


def noise(size: int) -> bytes:
    """Bytes that no two tests share."""
    return os.urandom(size)
