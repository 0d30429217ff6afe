"""Our own Catalog service: what people do with images that CRI has no word for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from cri_imaged.cri import convert
from cri_imaged.cri.names import ClientNames
from cri_imaged.images.descriptions import Description, Descriptions
from cri_imaged.images.pull.puller import Puller
from cri_imaged.images.reports import Cause
from cri_imaged.images.tagging import Tagger
from cri_imaged.oci.platform import Platform
from cri_imaged.rpc.node.v1 import catalog_pb2 as api
from cri_imaged.rpc.node.v1 import catalog_pb2_grpc

_BATCH = 100


class CatalogService(catalog_pb2_grpc.CatalogServicer):
    """See catalog.proto."""

    def __init__(
        self, puller: Puller, tagger: Tagger, descriptions: Descriptions, names: ClientNames
    ) -> None:
        self._puller = puller
        self._tagger = tagger
        self._descriptions = descriptions
        self._names = names

    async def PullForPlatform(  # noqa: N802
        self, request: api.PullForPlatformRequest, context: Any
    ) -> api.PullForPlatformResponse:
        """See catalog.proto."""
        image = request.pull.image
        handler = self._puller.handlers.asked_for(image.runtime_handler, "")
        pulled = await self._puller.pull(
            self._names.read(image.image),
            handler.name,
            convert.credentials_of(request.pull.auth),
            Cause(trace=convert.trace_of(context.invocation_metadata() or ())),
            Platform.parse(request.platform),
        )
        return api.PullForPlatformResponse(image_id=pulled.image.id, warnings=pulled.warnings)

    async def TagImage(  # noqa: N802
        self, request: api.TagImageRequest, context: Any
    ) -> api.TagImageResponse:
        """See catalog.proto."""
        image, tag = await self._tagger.tag(
            self._names.read(request.image),
            request.runtime_handler,
            self._names.read(request.tag),
        )
        return api.TagImageResponse(image_id=image.id, tag=str(tag))

    async def UntagImage(  # noqa: N802
        self, request: api.UntagImageRequest, context: Any
    ) -> api.UntagImageResponse:
        """See catalog.proto."""
        image, tag = await self._tagger.untag(
            self._names.read(request.tag), request.runtime_handler
        )
        return api.UntagImageResponse(image_id=image.id, tag=tag)

    async def DescribeImages(  # noqa: N802
        self, request: api.DescribeImagesRequest, context: Any
    ) -> AsyncIterator[api.DescribeImagesResponse]:
        """See catalog.proto."""
        batch: list[api.ImageDescription] = []
        async for each in self._descriptions.all(sizes=request.sizes):
            batch.append(_description(each))
            if len(batch) == _BATCH:
                yield api.DescribeImagesResponse(images=batch)
                batch.clear()
        yield api.DescribeImagesResponse(images=batch)


def _description(each: Description) -> api.ImageDescription:
    return api.ImageDescription(
        image_id=each.image.id,
        runtime_handler=each.image.record.handler,
        built_at=int(each.built * 1e9),
        bytes=each.share.bytes,
        unique_bytes=each.share.unique_bytes,
    )
