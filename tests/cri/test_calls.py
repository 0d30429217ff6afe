"""What happens around each call, by a server and a client of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from cri_imaged.cri.calls import Calls
from cri_imaged.obs.metrics import Metrics
from cri_imaged.rpc.node.v1 import archives_pb2 as api
from cri_imaged.rpc.node.v1 import archives_pb2_grpc


class Endless:
    """Exports without an end, and takes its time to put away what it had in use."""

    def __init__(self) -> None:
        self.put_away = False

    async def ExportImages(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            while True:
                yield api.ExportImagesResponse(chunk=bytes(1 << 20))
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            self.put_away = True

    async def ImportImages(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Not called."""
        yield


async def test_a_stream_that_nobody_reads_has_put_all_away_when_no_call_is_at_work(
    tmp_path: Path,
) -> None:
    service, calls = Endless(), Calls(Metrics("1"))
    server = grpc.aio.server()
    described = api.DESCRIPTOR.services_by_name["Archives"]
    server.add_generic_rpc_handlers((calls.handlers(described, service),))
    address = f"unix:{tmp_path / 's.sock'}"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        exported = archives_pb2_grpc.ArchivesStub(channel).ExportImages(api.ExportImagesRequest())
        await anext(aiter(exported))
        await server.stop(0)
        await calls.idle()
        assert service.put_away
