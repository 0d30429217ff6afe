"""CRI's ImageService."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from msgspec.structs import replace

from cri_imaged.cri import convert
from cri_imaged.cri.names import ClientNames
from cri_imaged.cri.ready import ReadyImages
from cri_imaged.cri.unread import UnreadAnswers
from cri_imaged.errors import LimitExceededError
from cri_imaged.images.handlers import SANDBOX_ANNOTATION
from cri_imaged.images.inspect import Inspector
from cri_imaged.images.pull.puller import Puller
from cri_imaged.images.remove import Remover
from cri_imaged.images.reports import Cause
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.images.usage import UsageMeter
from cri_imaged.oci.reference import DOCKER_HUB
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Answers:
    """How clients want to be answered."""

    max_bytes: int
    """Of one message."""
    hex_ids: bool
    """Whether image IDs are shown without their algorithm."""


class ImageService:
    """Converts, calls the use cases, converts back. What shows images is answered as bytes: see
    `cri_imaged.cri.ready`."""

    def __init__(
        self,
        *,
        puller: Puller,
        remover: Remover,
        store: ImageStore,
        inspector: Inspector,
        meter: UsageMeter,
        names: ClientNames,
        answers: Answers,
        unread: UnreadAnswers,
    ) -> None:
        self._puller = puller
        self._remover = remover
        self._store = store
        self._inspector = inspector
        self._meter = meter
        self._names = names
        self._answers = answers
        self._unread = unread
        self._ready = ReadyImages(store, self._shown_id)

    async def PullImage(  # noqa: N802
        self, request: cri.PullImageRequest, context: Any
    ) -> cri.PullImageResponse:
        """Pull, with this request's own credentials."""
        handler = self._puller.handlers.asked_for(
            request.image.runtime_handler,
            request.sandbox_config.annotations.get(SANDBOX_ANNOTATION, ""),
        )
        name, given = self._name(request.image), convert.credentials_of(request.auth)
        if given is not None and name != request.image.image and not given.server_address:
            # The kubelet knows no alias of ours: this is a pull secret for Docker Hub.
            given = replace(given, server_address=DOCKER_HUB)
        pulled = await self._puller.pull(
            name,
            handler.name,
            given,
            Cause(
                convert.pod_of(request.sandbox_config),
                convert.trace_of(context.invocation_metadata() or ()),
            ),
        )
        return cri.PullImageResponse(image_ref=self._shown_id(pulled.image))

    async def ImageStatus(  # noqa: N802
        self, request: cri.ImageStatusRequest, context: Any
    ) -> bytes:
        """An ImageStatusResponse: one image, or none without an error."""
        image = self._store.get(self._name(request.image), request.image.runtime_handler)
        if image is None:
            return b""
        response = self._ready.of(image)
        if request.verbose:
            async with self._inspector.details(image) as details:
                # The config as it stands: to read and write a large one anew holds up all others.
                rest = {
                    "chainID": image.record.chain_id or "",
                    "warnings": details.warnings,
                    "labels": details.labels,
                    "content": [asdict(each) for each in details.content],
                    "layerSizes": details.layer_sizes,
                }
                await self._unread.room_for(len(details.config))
                info = f'{json.dumps(rest)[:-1]}, "imageSpec": {details.config}}}'
                response += cri.ImageStatusResponse(info={"info": info}).SerializeToString()
        return response

    async def ListImages(  # noqa: N802
        self, request: cri.ListImagesRequest, context: Any
    ) -> bytes:
        """A ListImagesResponse: all images that match the filter, in one message."""
        found = self._list(request.filter)
        size = sum(map(len, found))
        if size > self._answers.max_bytes:
            raise LimitExceededError(
                f"the list of {len(found)} images has {size} bytes, limit "
                f"{self._answers.max_bytes} (grpc.max_send_message_size); ask by StreamImages, "
                "or for fewer by a filter"
            )
        await self._unread.room_for(size)
        return b"".join(found)

    async def StreamImages(  # noqa: N802
        self, request: cri.StreamImagesRequest, context: Any
    ) -> AsyncIterator[bytes]:
        """As ListImages, in batches of any total size (KEP-5825), which keep up with changes."""
        if not request.filter.image.image:
            for batch in self._ready.batches(_BATCH):
                yield batch
        elif found := self._list(request.filter):
            yield b"".join(found)

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
            image_filesystems=[convert.usage_message(entry) for entry in self._meter.entries],
            container_filesystems=[convert.usage_message(each) for each in self._meter.containers],
        )

    def _list(self, wanted: cri.ImageFilter) -> list[bytes]:
        if not wanted.image.image:
            return list(self._ready.all())
        found = self._store.get(self._name(wanted.image), wanted.image.runtime_handler)
        return [self._ready.of(image) for image in self._store.of(found.id)] if found else []

    def _shown_id(self, image: Image) -> str:
        return image.id.hex if self._answers.hex_ids else image.id

    def _name(self, spec: cri.ImageSpec) -> str:
        return self._names.read(spec.image)
