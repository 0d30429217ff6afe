"""Our own Archives service: images in and out of one file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from cri_imaged.cri.names import ClientNames
from cri_imaged.errors import InvalidRequestError, QueueFullError
from cri_imaged.images.archives.exporter import Exporter
from cri_imaged.images.archives.importer import Importer
from cri_imaged.images.handlers import Handlers
from cri_imaged.limits import ARCHIVE_IDLE_SECONDS, ARCHIVES
from cri_imaged.rpc.node.v1 import archives_pb2 as api
from cri_imaged.rpc.node.v1 import archives_pb2_grpc


class ArchivesService(archives_pb2_grpc.ArchivesServicer):
    """See archives.proto."""

    def __init__(
        self,
        importer: Importer,
        exporter: Exporter,
        handlers: Handlers,
        names: ClientNames,
        idle_seconds: float = ARCHIVE_IDLE_SECONDS,
    ) -> None:
        self._importer = importer
        self._exporter = exporter
        self._handlers = handlers
        self._names = names
        self._idle_seconds = idle_seconds
        self._running = 0

    async def ImportImages(  # noqa: N802
        self, request_iterator: AsyncIterator[api.ImportImagesRequest], context: Any
    ) -> AsyncIterator[api.ImportImagesResponse]:
        """See archives.proto."""
        with self._at_work():
            requests = aiter(request_iterator)
            first = await self._next(requests)
            if first is None or not first.HasField("options"):
                raise InvalidRequestError("the first message has to have the options")
            options = first.options
            name = self._names.read(options.name)
            handler = self._handlers.asked_for(options.runtime_handler, "")
            async with aclosing(
                self._importer.run(self._chunks(requests), handler, name)
            ) as imported:
                async for each in imported:
                    yield api.ImportImagesResponse(
                        image_id=each.image_id, names=each.names, digest=each.target
                    )

    async def ExportImages(  # noqa: N802
        self, request: api.ExportImagesRequest, context: Any
    ) -> AsyncIterator[api.ExportImagesResponse]:
        """See archives.proto."""
        if not request.images:
            raise InvalidRequestError("no image is named")
        names = [self._names.read(name) for name in request.images]
        docker = request.format == api.ARCHIVE_FORMAT_DOCKER
        with self._at_work():
            async with aclosing(
                self._exporter.run(names, request.runtime_handler, docker=docker)
            ) as pieces:
                async for piece in pieces:
                    yield api.ExportImagesResponse(chunk=piece)

    async def _chunks(
        self, requests: AsyncIterator[api.ImportImagesRequest]
    ) -> AsyncIterator[bytes]:
        while (request := await self._next(requests)) is not None:
            if request.chunk:
                yield request.chunk

    async def _next(
        self, requests: AsyncIterator[api.ImportImagesRequest]
    ) -> api.ImportImagesRequest | None:
        """None at the end."""
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await anext(requests, None)
        except TimeoutError:
            raise InvalidRequestError(
                f"archive: nothing came for {self._idle_seconds:.0f} s; it is given up"
            ) from None

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if self._running >= ARCHIVES:
            raise QueueFullError(
                f"{self._running} archives are imported and exported already, limit {ARCHIVES}"
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
