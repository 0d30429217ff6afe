"""CRI's ImageService."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import structlog

from cri_imaged.cri import convert
from cri_imaged.errors import InvalidRequestError, LimitExceededError
from cri_imaged.images.inspect import Inspector
from cri_imaged.images.pull import Puller
from cri_imaged.images.remove import Remover
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.images.usage import UsageMeter
from cri_imaged.limits import Limits
from cri_imaged.obs.metrics import Metrics
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc

_BATCH = 100


class ImageService(api_pb2_grpc.ImageServiceServicer):
    """Converts, calls the use cases, converts back."""

    def __init__(
        self,
        *,
        puller: Puller,
        remover: Remover,
        store: ImageStore,
        inspector: Inspector,
        meter: UsageMeter,
        metrics: Metrics,
        limits: Limits,
        max_send_bytes: int,
    ) -> None:
        self._puller = puller
        self._remover = remover
        self._store = store
        self._inspector = inspector
        self._meter = meter
        self._metrics = metrics
        self._limits = limits
        self._max_send_bytes = max_send_bytes

    async def PullImage(  # noqa: N802
        self, request: cri.PullImageRequest, context: Any
    ) -> cri.PullImageResponse:
        """Pull, with this request's own credentials."""
        with self._metrics.pulling() as counted:
            name = self._name(request.image)
            structlog.contextvars.bind_contextvars(reference=name)
            pulled = await self._puller.pull(
                name, request.image.runtime_handler, convert.credentials_of(request.auth)
            )
            counted.succeeded(pulled.image.record.size)
        await self._meter.measure()
        structlog.contextvars.bind_contextvars(
            image_id=pulled.image.id,
            repo_tag="" if pulled.reference.digest else str(pulled.reference),
            repo_digest=pulled.repo_digest,
            size=pulled.image.record.size,
            bytes_fetched=pulled.received,
        )
        return cri.PullImageResponse(image_ref=pulled.image.id)

    async def ImageStatus(  # noqa: N802
        self, request: cri.ImageStatusRequest, context: Any
    ) -> cri.ImageStatusResponse:
        """One image, or none without an error."""
        image = self._store.get(self._name(request.image), request.image.runtime_handler)
        if image is None:
            return cri.ImageStatusResponse()
        response = cri.ImageStatusResponse(image=convert.image_message(image))
        if request.verbose:
            config = await self._inspector.config(image)
            response.info["info"] = json.dumps(
                {"chainID": image.record.chain_id or "", "imageSpec": config}
            )
        return response

    async def ListImages(  # noqa: N802
        self, request: cri.ListImagesRequest, context: Any
    ) -> cri.ListImagesResponse:
        """All images that match the filter, in one message."""
        response = cri.ListImagesResponse(images=self._list(request.filter))
        if response.ByteSize() > self._max_send_bytes:
            raise LimitExceededError(
                f"the list of {len(response.images)} images has {response.ByteSize()} bytes, limit "
                f"{self._max_send_bytes} (grpc.max_send_message_size); ask by StreamImages, "
                "or for fewer by a filter"
            )
        return response

    async def StreamImages(  # noqa: N802
        self, request: cri.StreamImagesRequest, context: Any
    ) -> AsyncIterator[cri.StreamImagesResponse]:
        """As ListImages, in batches of any total size (KEP-5825)."""
        found = self._list(request.filter)
        for start in range(0, len(found), _BATCH):
            yield cri.StreamImagesResponse(images=found[start : start + _BATCH])

    async def RemoveImage(  # noqa: N802
        self, request: cri.RemoveImageRequest, context: Any
    ) -> cri.RemoveImageResponse:
        """Remove an image with all its names. What is not there is removed already."""
        await self._remover.remove(self._name(request.image), request.image.runtime_handler)
        return cri.RemoveImageResponse()

    async def ImageFsInfo(  # noqa: N802
        self, request: cri.ImageFsInfoRequest, context: Any
    ) -> cri.ImageFsInfoResponse:
        """The last measurement, at once."""
        return cri.ImageFsInfoResponse(
            image_filesystems=[convert.usage_message(entry) for entry in self._meter.entries]
        )

    def _list(self, wanted: cri.ImageFilter) -> list[cri.Image]:
        name = wanted.image.image
        images: list[Image] = self._store.all()
        if name:
            found = self._store.get(self._checked(name), wanted.image.runtime_handler)
            images = [image for image in images if found and image.id == found.id]
        return [convert.image_message(image) for image in images]

    def _name(self, spec: cri.ImageSpec) -> str:
        return self._checked(spec.image)

    def _checked(self, name: str) -> str:
        if len(name.encode()) > self._limits.reference_bytes:
            raise InvalidRequestError(
                f"image reference of {len(name)} characters, limit {self._limits.reference_bytes}"
            )
        return name
