"""Clients that ask for much and read nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from cri_imaged.cri import unread
from cri_imaged.cri.unread import UnreadAnswers
from cri_imaged.errors import QueueFullError
from cri_imaged.limits import MIB
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc
from tests.cri.test_server import serving
from tests.images.gated import GatedRegistry
from tests.images.workbench import image_of, layer, serve


@asynccontextmanager
async def holding(answers: UnreadAnswers, size: int) -> AsyncIterator[None]:
    """A call with an answer of so many bytes, which is taken when the context ends."""
    made, taken = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        await answers.room_for(size)
        made.set()
        await taken.wait()

    task = asyncio.create_task(call())
    await made.wait()
    yield
    taken.set()
    await task


async def test_an_answer_waits_until_others_are_read() -> None:
    answers = UnreadAnswers(limit=2 * MIB, seconds=60.0)
    async with holding(answers, MIB):
        async with holding(answers, MIB):
            third = asyncio.create_task(answers.room_for(MIB))
            await asyncio.sleep(0)
            await answers.room_for(1000)
            assert not third.done()
        await third


async def test_an_answer_that_would_wait_for_too_long_is_refused_and_one_alone_is_not() -> None:
    answers = UnreadAnswers(limit=MIB, seconds=0.01)
    async with holding(answers, 10 * MIB):
        with pytest.raises(QueueFullError, match="have not read 10485760 bytes"):
            await answers.room_for(MIB)
    await asyncio.create_task(answers.room_for(10 * MIB))


class Deaf:
    """Lets a client's requests through to the server, and next to nothing back."""

    def __init__(self, server: Path, here: Path) -> None:
        self._to = server
        self.here = here
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Deaf:
        self._server = await asyncio.start_unix_server(self._serve, self.here)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        from_server, to_server = await asyncio.open_unix_connection(self._to, limit=1024)

        async def greet() -> None:
            for _ in range(3):
                writer.write(await from_server.read(256))

        greeting = asyncio.create_task(greet())
        with suppress(asyncio.CancelledError, OSError):
            while data := await reader.read(65536):
                to_server.write(data)
        greeting.cancel()
        for each in (writer, to_server):
            each.transport.abort()


async def test_who_reads_nothing_holds_no_more_than_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (3 * MIB, 0.5)
    monkeypatch.setattr(unread.UnreadAnswers.__init__, "__defaults__", limits)
    async with GatedRegistry() as registry, serving(tmp_path, registry) as client:
        serve(registry, image_of(layer(0), Env=["A=" + "a" * (2 * MIB)]))
        await client.pull()
        asked = cri.ImageStatusRequest(image=client.spec(), verbose=True)
        code = None
        async with Deaf(client.address, tmp_path / "deaf.sock") as deaf:
            channel = grpc.aio.insecure_channel(f"unix:{deaf.here}")
            calls = [api_pb2_grpc.ImageServiceStub(channel).ImageStatus(asked)]

            async def status() -> grpc.StatusCode:
                try:
                    await client.images.ImageStatus(asked)
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

            async with asyncio.timeout(60):
                while code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    code = await status()
                await client.images.ListImages(cri.ListImagesRequest())
        calls[0].cancel()
        await channel.close()
        async with asyncio.timeout(60):
            while await status() is not grpc.StatusCode.OK:
                pass
