"""The in-memory image store: an index over metadata, with containerd's semantics.

An image is found by its full ID, by a reference, which is normalised first, or else by a truncated
ID that is not ambiguous: `cafe` is the image of that name where there is one. What is not ready is
not here.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection
from dataclasses import dataclass

from cri_imaged.errors import InvalidRequestError
from cri_imaged.metadata import images
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import ImageRecord
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference, sort_key

_FULL_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ID = re.compile(r"(?:sha(?:256|512):)?[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Image:
    """A ready image as clients see it."""

    record: ImageRecord
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    pinned: bool

    @property
    def id(self) -> Digest:
        """The digest of the image's config."""
        return self.record.image_id


class ImageStore:
    """Ready images by ID and by name, for each runtime handler."""

    def __init__(
        self, database: Database, pinned: Collection[str], handlers: Collection[str]
    ) -> None:
        """`handlers` are the runtime handlers that images are kept for besides the default one."""
        self._handlers = frozenset(handlers)
        self._database = database
        self._pinned = frozenset(pinned)
        self._images: dict[tuple[Digest, str], Image] = {}
        self._names: dict[tuple[str, str], Digest] = {}
        self._ids: list[str] = []

    async def load(self) -> None:
        """Build the index from metadata."""
        records = await self._database.read(images.all_ready)
        self._images.clear()
        self._names.clear()
        for record in records:
            self._put(record)
        self._ids = sorted({image_id for image_id, _ in self._images})

    async def update(self, names: Collection[str], handler: str) -> None:
        """Take over what metadata says of `names` now: a new image, another one that a name moved
        to, or none."""
        before = {self._names.get((name, handler)) for name in names}
        after = await self._database.read(lambda db: images.owners(db, names, handler))
        for image_id in before | after:
            if image_id is not None:
                await self.refresh(image_id, handler)

    async def refresh(self, image_id: Digest, handler: str) -> None:
        """Take over what metadata says of one image now; without a name it is gone."""
        record = await self._database.read(lambda db: images.find(db, image_id, handler))
        old = self._images.pop((image_id, handler), None)
        for name in old.record.names if old else ():
            if self._names.get((name, handler)) == image_id:
                del self._names[name, handler]
        if record is not None:
            self._put(record)
        self._ids = sorted({known for known, _ in self._images})

    def resolve(self, name: str, handler: str = "") -> Digest | None:
        """The image ID that a client's `name` means, or None.

        Raises:
            InvalidRequestError: neither a reference nor an ID, or an ambiguous truncated ID.
        """
        if not _FULL_ID.fullmatch(name):
            reference = str(Reference.parse(name).canonical())
            if found := self._names.get((reference, handler)):
                return found
        return self._by_id(name) if _ID.fullmatch(name) else None

    def get(self, name: str, handler: str = "") -> Image | None:
        """The image that `name` means for `handler`, or for the default one where that is none of
        ours: it is what such a pull is for. Where a caller names no handler and the default one
        has no such image, another handler's is given."""
        handler = handler if handler in self._handlers else ""
        for candidate in (handler, *(self._other_handlers() if not handler else ())):
            image_id = self.resolve(name, candidate)
            image = self._images.get((image_id, candidate)) if image_id else None
            if image is not None:
                return image
        return None

    def find(self, image_id: Digest, handler: str) -> Image | None:
        """The image of exactly this ID and handler."""
        return self._images.get((image_id, handler))

    def all(self) -> list[Image]:
        """All images, in a stable order."""
        return list(self._images.values())

    def describe(self, record: ImageRecord) -> Image:
        """`record` as clients see it, whether or not it is here."""
        references = _references(record)
        return Image(
            record=record,
            repo_tags=tuple(name for name in references if "@" not in name),
            repo_digests=tuple(name for name in references if "@" in name),
            pinned=any(name in self._pinned for name in record.names),
        )

    def _other_handlers(self) -> list[str]:
        return sorted({handler for _, handler in self._images if handler})

    def _by_id(self, text: str) -> Digest | None:
        prefix = text if ":" in text else f"sha256:{text}"
        start = bisect.bisect_left(self._ids, prefix)
        matches = self._ids[start : start + 2]
        matches = [image_id for image_id in matches if image_id.startswith(prefix)]
        if len(matches) > 1 and matches[0] != prefix:
            raise InvalidRequestError(
                f"image ID {text!r} is ambiguous: it begins {matches[0]} and {matches[1]}; "
                "give more digits"
            )
        return Digest(matches[0]) if matches else None

    def _put(self, record: ImageRecord) -> None:
        image = self.describe(record)
        for name in (*image.repo_tags, *image.repo_digests):
            self._names[name, record.handler] = record.image_id
        self._images[record.image_id, record.handler] = image


def _references(record: ImageRecord) -> list[str]:
    return sorted((name for name in record.names if name != record.image_id), key=sort_key)
