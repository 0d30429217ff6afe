"""What an image's config says, for those who ask in detail."""

from __future__ import annotations

from typing import Any

from cri_imaged.images.store import Image
from cri_imaged.limits import Limits
from cri_imaged.oci.documents import parse_config
from cri_imaged.ports import ContentStore


class Inspector:
    """Reads configs from the content store."""

    def __init__(self, content: ContentStore, limits: Limits) -> None:
        self._content = content
        self._limits = limits

    async def config(self, image: Image) -> dict[str, Any]:
        """The image's config as JSON values (OCI image spec, config.md).

        Raises:
            NotFoundError, CorruptContentError: somebody else touched the store; pull again.
        """
        data = await self._content.read(image.id, self._limits.config_bytes)
        return parse_config(data, self._limits).document
