"""Peers that flood, stutter, contradict themselves or change their minds, on real connections."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from yarl import URL

from cri_imaged.errors import CorruptContentError, RegistryError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.registry.failures import HostFailure
from cri_imaged.registry.http.addresses import Reach
from cri_imaged.registry.http.dial import Dialer, Route
from cri_imaged.registry.http.explanations import Explainer
from cri_imaged.registry.http.names import Address, Names
from cri_imaged.registry.http.pool import Pool
from cri_imaged.registry.retry import RetryPolicy
from tests.registry.helpers import (
    REPOSITORY,
    client,
    noise,
    read,
    resolve,
    speaking,
    write_hosts,
)
from tests.support.registry import BLOB, MANIFEST, Fault, FaultRegistry, redirect, status
from tests.support.work import Steps, counted

ONCE = RetryPolicy(tries=1, seconds=20.0)
LONGEST_TURN = 60_000
"""Steps that one turn of the event loop may take."""


class Turns:
    """Counts how much each turn of the event loop has to do."""

    longest = 0

    async def watch(self, steps: Steps) -> None:
        while True:
            before = steps.count
            await asyncio.sleep(0)
            self.longest = max(self.longest, steps.count - before)


@asynccontextmanager
async def watched() -> AsyncIterator[Turns]:
    turns = Turns()
    with counted() as steps:
        task = asyncio.create_task(turns.watch(steps))
        try:
            yield turns
        finally:
            task.cancel()


class Flood:
    """A server in a thread of its own that repeats one piece as fast as it is taken."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self._answer = head, piece * (1 + (1 << 20) // len(piece))

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._flood, args=(connection,), daemon=True).start()

    def _flood(self, connection: socket.socket) -> None:
        head, pieces = self._answer
        try:
            connection.recv(65536)
            connection.sendall(head)
            while True:
                connection.sendall(pieces)
        except OSError:
            connection.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "piece", "problem"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "interim responses"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n", "interim responses"),
        (b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "changes the protocol"),
        (b"", b"HTTP/1.1 102 P\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", "headers are too large"),
        (OK, b"X: y\r\n", "headers are too large"),
        (OK + b"X: ", b"y", "headers are too large"),
        (OK + b"X: y\r\n", b" folded\r\n", "headers are too large"),
        (b"", b"\r\n", "headers are too large"),
        (b"", b"\n", "headers are too large"),
        (b"HTTP/1.1 200 ", b"O", "headers are too large"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", "chunks are too small"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", "too long"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", "trailers are too long"),
        (
            OK + b"Content-Encoding: gzip\r\n\r\n",
            gzip.compress(bytes(10 << 20), mtime=0),
            "more than",
        ),
        (
            OK + b"Content-Encoding: gzip\r\n\r\n",
            gzip.compress(b"", mtime=0),
            "parts .* are too small",
        ),
        (
            OK + b"Content-Encoding: gzip\r\n\r\n",
            gzip.compress(b"a", mtime=0),
            "parts .* are too small",
        ),
        (OK + b"\r\n", b"x", "more than"),
    ],
)
async def test_a_flood_ends_the_request_and_never_keeps_the_loop(
    tmp_path: Path, head: bytes, piece: bytes, problem: str
) -> None:
    with Flood(head, piece) as authority:
        write_hosts(tmp_path, authority, f'server = "http://{authority}"')
        async with (
            asyncio.timeout(30),
            client(config_path=tmp_path, policy=ONCE) as opened,
            watched() as turns,
        ):
            with pytest.raises(Exception, match=problem):
                await resolve(opened, authority)
    assert turns.longest < LONGEST_TURN


def manifest() -> tuple[bytes, str]:
    config = {"mediaType": media_types.OCI_CONFIG, "digest": Digest.of(b"{}"), "size": 2}
    document = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": config,
            "layers": [],
        }
    ).encode()
    return document, Digest.of(document)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: %d\r\nContent-Length: %d\r\n",
        b"Content-Length: %d, %d\r\n",
        b"Content-Length: %d\r\nX-Long-%d: " + b"y" * 100_000 + b"\r\n",
        b"Content-Length: %d\r\nBytes-%d: \xff\xfe\r\n",
        b"Content-Length : %d\r\nNo Name %d: x\r\n: y\r\n",
    ],
)
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("code", [200, 201, 203])
async def test_odd_heads_are_borne(
    tmp_path: Path, fields: bytes, line_end: bytes, code: int
) -> None:
    document, digest = manifest()
    head = b"HTTP/1.1 %d\r\n" % code + fields % (len(document), len(document)) + b"\r\n"

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head.replace(b"\r\n", line_end) + document)

    async with speaking(answer) as odd:
        write_hosts(tmp_path, odd, f'server = "http://{odd}"')
        async with client(config_path=tmp_path, policy=ONCE) as opened:
            assert (await resolve(opened, odd)).descriptor.digest == digest


async def test_stray_bytes_after_an_answer_cost_the_connection_and_not_the_pull(
    tmp_path: Path,
) -> None:
    """Whether they come with the answer or later, they are never taken for the next answer."""
    document, digest = manifest()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(document) + document
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer + b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                await asyncio.sleep(0.05)
                writer.write(b"stray")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    odd = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    write_hosts(tmp_path, odd, f'server = "http://{odd}"')
    async with client(config_path=tmp_path, policy=ONCE) as opened:
        for _ in range(3):
            assert (await resolve(opened, odd)).descriptor.digest == digest
    server.close()
    assert connections == 3


async def test_a_kept_connection_that_the_peer_has_closed_costs_no_try(tmp_path: Path) -> None:
    """It was closed just when the next request was sent."""
    document, digest = manifest()
    heads = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        await reader.readuntil(b"\r\n\r\n")
        heads += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(document) + document)
        await reader.readuntil(b"\r\n\r\n")
        heads += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    odd = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    write_hosts(tmp_path, odd, f'server = "http://{odd}"')
    async with client(config_path=tmp_path, policy=ONCE) as opened:
        for _ in range(2):
            assert (await resolve(opened, odd)).descriptor.digest == digest
    server.close()
    assert heads == 3


async def test_one_connection_serves_many_requests() -> None:
    async with FaultRegistry() as registry:
        data = noise(300_000)
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]
        registry.faults.append(Fault(where=BLOB, no_length=True, skip=1))
        async with client() as opened:
            fetcher = (await resolve(opened, registry)).fetcher
            for _ in range(3):
                assert await read(fetcher, layer) == data
        assert len({seen.port for seen in registry.seen}) == 1


def bare(data: bytes) -> bytes:
    """Deflated, without zlib's frame."""
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


@pytest.mark.parametrize(
    ("coding", "transform"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare),
        ("deflate", lambda data: bare(data) + bytes(100_000)),
    ],
)
@pytest.mark.parametrize("no_length", [False, True])
async def test_an_answer_that_was_compressed_on_the_way(
    coding: str, transform: Callable[[bytes], bytes], no_length: bool
) -> None:
    async with FaultRegistry() as registry:
        data = noise(1_000_000)
        image = registry.add_image(REPOSITORY, "latest", [data])
        registry.faults.append(
            Fault(headers={"Content-Encoding": coding}, transform=transform, no_length=no_length)
        )
        async with client() as opened:
            resolved = await resolve(opened, registry)
            assert resolved.descriptor == image.manifest
            assert await read(resolved.fetcher, image.layers[0]) == data


async def test_an_archive_that_is_marked_as_compressed_on_the_way_stays_as_it_is() -> None:
    async with FaultRegistry() as registry:
        data = gzip.compress(noise(1000))
        image = registry.add_image(REPOSITORY, "latest", [data])
        registry.faults.append(Fault(where=BLOB, headers={"Content-Encoding": "gzip"}))
        async with client() as opened:
            assert await read((await resolve(opened, registry)).fetcher, image.layers[0]) == data


@pytest.mark.parametrize("no_length", [False, True])
async def test_the_digest_decides_whether_a_marked_body_is_an_archive_or_was_compressed(
    no_length: bool,
) -> None:
    async with FaultRegistry() as registry:
        as_long = next(
            data
            for data in (noise(1000) + bytes(number % 100) for number in range(10_000))
            if len(gzip.compress(data, mtime=0)) == len(data)
        )
        archive = gzip.compress(bytes(5000))
        image = registry.add_image(REPOSITORY, "latest", [as_long, archive])
        marked = {"Content-Encoding": "gzip"}
        registry.faults += [
            Fault(
                reference=str(image.layers[0].digest),
                headers=marked,
                transform=lambda data: gzip.compress(data, mtime=0),
                no_length=no_length,
            ),
            Fault(where=BLOB, headers=marked, no_length=no_length),
        ]
        async with client() as opened:
            fetcher = (await resolve(opened, registry)).fetcher
            for layer, data in zip(image.layers, (as_long, archive), strict=True):
                for _ in range(2):
                    with suppress(CorruptContentError):
                        async with fetcher.fetch(layer) as stream:
                            if b"".join([chunk async for chunk in stream]) != data:
                                stream.discredit()
                assert await read(fetcher, layer) == data


@pytest.mark.parametrize("length", [10, 40_000])
async def test_a_redirect_to_a_long_url_with_raw_spaces(length: int) -> None:
    async with FaultRegistry() as registry:
        image = registry.add_image(REPOSITORY, "latest")
        target = f"/v2/{REPOSITORY}/manifests/latest?signed by={'x' * length}"
        registry.faults.append(redirect(target, where=MANIFEST, times=1))
        # The test's own server reads no request line as long as storage does.
        async with client() as opened:
            if length < 8000:
                assert (await resolve(opened, registry)).descriptor == image.manifest
                assert registry.seen[1].query == {"signed by": ["x" * length]}
            else:
                with pytest.raises(RegistryError, match="400"):
                    await resolve(opened, registry)


async def test_headers_that_are_late_name_the_key_to_raise() -> None:
    async with FaultRegistry() as registry:
        registry.faults.append(status(200, stall_after=-1))
        async with client(response_header_timeout=0.2, policy=ONCE) as opened:
            with pytest.raises(RegistryError, match=r"image\.registry\.response_header_timeout"):
                await resolve(opened, registry)


async def test_a_long_body_in_small_pieces_is_not_received_piece_by_piece(tmp_path: Path) -> None:
    """Beyond its first MiB there is at most one small chunk in two milliseconds."""
    size, piece = 6 << 20, 8 << 10
    data = noise(size)
    async with FaultRegistry() as registry:
        layer = registry.add_image(REPOSITORY, "latest", [data]).layers[0]

        async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for at in range(0, size, piece):
                writer.write(data[at : at + piece])
                await writer.drain()
                await asyncio.sleep(0)

        async with speaking(answer) as slow:
            registry.faults.append(redirect(f"http://{slow}/", where=BLOB))
            held = bytearray()
            small = 0
            began = time.monotonic()
            async with (
                client() as opened,
                (await resolve(opened, registry)).fetcher.fetch(layer) as stream,
            ):
                async for chunk in stream:
                    held += chunk
                    if len(held) > 2 << 20:
                        small += len(chunk) < 128 << 10
                    else:
                        began = time.monotonic()
    assert bytes(held) == data
    assert small <= (time.monotonic() - began) / 0.002 + 2


# --- names ----------------------------------------------------------------------------------


class NameServer:
    """Answers for some names, and for others not before it is told to."""

    def __init__(self, known: dict[str, list[Address]]) -> None:
        self._known = known
        self.asked: list[str] = []
        self.give_up = threading.Event()

    def __call__(self, name: str) -> list[Address]:
        self.asked.append(name)
        if name not in self._known:
            self.give_up.wait()
            raise OSError("nobody knows")
        return self._known[name]


async def test_names_that_nobody_answers_for_hold_up_no_other() -> None:
    server = NameServer({"honest.example": [("127.0.0.1", 0)]})
    names = Names(server)
    dead = [
        asyncio.create_task(names.addresses(f"dead{number % 40}.example", 0.5))
        for number in range(80)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await names.addresses("honest.example", 5.0) == [("127.0.0.1", 0)]
    assert not any(task.done() for task in dead)
    found = await asyncio.gather(*dead, return_exceptions=True)
    assert all(isinstance(each, TimeoutError) for each in found)
    assert len(server.asked) == 41, "each name is asked for once"
    server.give_up.set()
    names.close()


async def test_as_many_names_as_there_may_be_pulls_at_work_hold_up_no_other() -> None:
    server = NameServer({"honest.example": [("127.0.0.1", 0)]})
    names = Names(server)
    at_work = 2 * Limits().running_pulls  # those in places, and those that gave theirs up
    dead = [asyncio.create_task(names.addresses(f"{n}.example", 60.0)) for n in range(at_work)]
    await asyncio.sleep(0)
    try:
        assert await names.addresses("honest.example", 30.0) == [("127.0.0.1", 0)]
        assert not any(task.done() for task in dead)
    finally:
        server.give_up.set()
        await asyncio.gather(*dead, return_exceptions=True)


async def test_names_that_were_found_before_wait_for_no_crowd_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cri_imaged.registry.http.names._KEPT_SECONDS", 0.0)
    monkeypatch.setattr("cri_imaged.registry.http.names._THREADS", 20)
    server = NameServer({"honest.example": [("127.0.0.1", 0)]})
    names = Names(server)
    await names.addresses("honest.example", 5.0)
    crowd = [asyncio.create_task(names.addresses(f"{n}.example", 30.0)) for n in range(40)]
    await asyncio.sleep(0)
    assert await names.addresses("honest.example", 5.0) == [("127.0.0.1", 0)]
    assert not any(task.done() for task in crowd)
    server.give_up.set()
    await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_name_that_nobody_waits_for_any_more_is_looked_up_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cri_imaged.registry.http.names._THREADS", 1)
    server = NameServer({"honest.example": [("127.0.0.1", 0)]})
    names = Names(server)
    given_up = [names.addresses(f"{n % 5}.example", 0.01) for n in range(10)]
    assert {type(each) for each in await asyncio.gather(*given_up, return_exceptions=True)} == {
        TimeoutError
    }
    honest = asyncio.create_task(names.addresses("honest.example", 30.0))
    server.give_up.set()
    assert await honest == [("127.0.0.1", 0)]
    assert server.asked == ["0.example", "honest.example"]


async def test_a_name_is_kept_for_a_while_but_no_failure_is() -> None:
    server = NameServer({"honest.example": [("127.0.0.1", 0)]})
    server.give_up.set()
    names = Names(server)
    for _ in range(2):
        await names.addresses("honest.example", 5.0)
        with pytest.raises(OSError, match="nobody knows"):
            await names.addresses("dead.example", 5.0)
    assert sorted(server.asked) == ["dead.example", "dead.example", "honest.example"]


async def dial(addresses: list[Address], nearest: Reach, port: int) -> str:
    """The address that was connected to."""
    dialer = Dialer(Names(NameServer({"name.example": addresses})), Limits())
    route = Route("name.example", port, None, None, None)
    link = await dialer.dial(route, nearest, Explainer("name.example", 5.0, False))
    link.connection.close()
    return link.connection.peer


async def test_each_address_of_a_name_is_judged_when_it_is_connected_to() -> None:
    """A name leads to what is allowed among its addresses, and the others do not count."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    near: list[Address] = [("127.0.0.1", 0), ("::1", 0), ("169.254.169.254", 0)]
    assert await dial(near, Reach.LOCAL, port) == "127.0.0.1"
    for nearest, problem in ((Reach.PRIVATE, "loopback or link-local"), (Reach.PUBLIC, "private")):
        with pytest.raises(HostFailure, match=f"leads to a {problem} address"):
            await dial(near, nearest, port)
    server.close()


@asynccontextmanager
async def peer() -> AsyncIterator[int]:
    """The port of one that accepts and says nothing."""
    accepted = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in accepted:
            writer.close()


async def test_a_connection_that_led_near_serves_no_request_that_must_not_go_there() -> None:
    dialer, pool = Dialer(Names(NameServer({"name.example": [("127.0.0.1", 0)]})), Limits()), Pool()
    async with peer() as port:
        route = Route("name.example", port, None, None, None)
        link = await dialer.dial(route, Reach.LOCAL, Explainer("name.example", 5.0, False))
        pool.put(route, link)
        assert pool.take(route, Reach.PRIVATE) is None
        assert pool.take(route, Reach.LOCAL) is link
        link.connection.close()


async def test_a_proxy_is_asked_for_no_address_that_a_request_must_not_go_to() -> None:
    dialer, explain = Dialer(Names(), Limits()), Explainer("10.1.2.3", 5.0, False)
    async with peer() as port:
        route = Route("10.1.2.3", 80, None, URL(f"http://127.0.0.1:{port}"), None)
        with pytest.raises(HostFailure, match="leads to a private address"):
            await dialer.dial(route, Reach.PUBLIC, explain)
        link = await dialer.dial(route, Reach.PRIVATE, explain)
        assert link.reach is Reach.PRIVATE
        link.connection.close()
