"""What an image's config says, and what its user may miss, for those who ask in detail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cri_imaged.disk import on_disk
from cri_imaged.images.handlers import Handlers
from cri_imaged.images.health.rebuild import stored_manifest
from cri_imaged.images.labels import Content, content_of, labels_of
from cri_imaged.images.pull.warnings import warnings_of
from cri_imaged.images.store import Image
from cri_imaged.images.stores import Stores
from cri_imaged.limits import Limits
from cri_imaged.metadata import images
from cri_imaged.oci import lenient_json
from cri_imaged.oci.artifacts import read_image
from cri_imaged.oci.documents import Config, Manifest, is_object
from cri_imaged.shielding import to_the_end


@dataclass(frozen=True, slots=True)
class Details:
    """What one image's config and snapshots say."""

    config: str
    """The JSON text (OCI image spec, config.md) as it was pulled; bytes that are no UTF-8 are
    replaced, and numbers that clients cannot read are strings. An artifact's that is no JSON
    object is an empty one."""
    warnings: tuple[str, ...]
    """Sentences on what its user may miss."""
    labels: Mapping[str, str]
    content: Sequence[Content]
    layer_sizes: Sequence[int]
    """Bytes that a registry sends, the lowest layer first."""


class Inspector:
    """Reads configs from the content store, and what snapshots lack."""

    def __init__(self, stores: Stores, handlers: Handlers) -> None:
        self._stores = stores
        self._handlers = handlers
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def details(self, image: Image) -> AsyncIterator[Details]:
        """What is known of `image`; one at a time, as a large one takes memory and makes the event
        loop copy it. Both last while the context does.

        Raises:
            NotFoundError, CorruptContentError: somebody else touched the store; pull again.
            LimitExceededError: the config takes more than all memory that there is.
        """
        record, documents = image.record, self._stores.documents
        manifest = await stored_manifest(documents, record.manifest)
        imported = await self._stores.database.read(
            lambda db: images.is_imported(db, record.image_id, record.handler)
        )
        async with self._turn, documents.opened_config(manifest.config.digest) as data:
            config, text = await to_the_end(
                on_disk(lambda: _read(manifest, data, documents.limits))
            )
            snapshotter = self._stores.snapshotters.get(record.snapshotter)
            platform = self._handlers.of(record.handler).platform
            warnings = await warnings_of(config, platform, snapshotter, record.chain_id)
            content = content_of(image, manifest, config, imported=imported)
            sizes = [layer.size for layer in manifest.layers]
            yield Details(text, warnings, labels_of(image), content, sizes)


def _read(manifest: Manifest, data: bytes, limits: Limits) -> tuple[Config, str]:
    _, config = read_image(manifest, data, limits)
    told = data if not config.is_artifact or is_object(data) else b"{}"
    return config, lenient_json.with_finite_numbers(told.decode("utf-8", "replace"))
