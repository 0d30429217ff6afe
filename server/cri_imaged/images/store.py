"""The in-memory image store: an index over metadata, with containerd's semantics.

An image is found by its full ID, by a reference, which is normalised first, or else by a truncated
ID that is not ambiguous: `cafe` is the image of that name where there is one. What is not ready is
not here.
"""

from __future__ import annotations

import bisect
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from cri_imaged.errors import InvalidRequestError
from cri_imaged.images.pins import Pins
from cri_imaged.metadata import images, readiness
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.readiness import ImageRecord
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
        """The digest of the image's config; of its manifest where it is an artifact."""
        return self.record.image_id


Key: TypeAlias = tuple[Digest, str]
"""An image's ID and its runtime handler."""


class Change(NamedTuple):
    """An image as it was, and as it is; None where there is none."""

    key: Key
    before: Image | None
    after: Image | None


Follower: TypeAlias = Callable[[Key, Image | None], None]
"""Told of an image as it is now; None where it is gone."""


class ImageStore:
    """Ready images by ID and by name, for each runtime handler."""

    def __init__(self, database: Database, pins: Pins, handlers: Collection[str]) -> None:
        """`handlers` are the runtime handlers that images are kept for besides the default one."""
        self._handlers = frozenset(handlers)
        self._database = database
        self._pins = pins
        self._images: dict[Key, Image] = {}
        self._names: dict[tuple[str, str], Digest] = {}
        self._handlers_of: dict[Digest, list[str]] = {}
        self._ids: list[Digest] = []
        """Sorted, each once."""
        self._counts = Counter[str]()
        """How many images each handler has; none has 0."""
        self._followers: list[Follower] = []

    async def load(self) -> None:
        """Build the index from metadata."""
        records = await self._database.read(readiness.all_ready)
        known = {(record.image_id, record.handler): record for record in records}
        for key in self._images.keys() - known:
            self._set(key, None)
        for key, record in known.items():
            self._set(key, record)

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of each image that is here, and from now on of each that changes, before
        anybody else can see it. It must not wait."""
        for key, image in self._images.items():
            follower(key, image)
        self._followers.append(follower)

    def repin(self) -> list[Key]:
        """Take over which images are pinned now. Returns those for which that changed."""
        changed = [
            key
            for key, image in self._images.items()
            if image.pinned != self._pins.holds(image.record.names)
        ]
        for key in changed:
            self._set(key, self._images[key].record)
        return changed

    async def update(self, names: Collection[str], handler: str) -> list[Change]:
        """Take over what metadata says now of the images that `names` meant until now, and of
        those that they mean."""
        known = {self._names.get((name, handler)) for name in names}

        def find(db: sqlite3.Connection) -> dict[Digest, ImageRecord | None]:
            concerned = known | images.owners(db, names, handler)
            return {each: readiness.find(db, each, handler) for each in concerned if each}

        found = await self._database.read(find)
        return [self._change((image_id, handler), record) for image_id, record in found.items()]

    async def refresh(self, image_id: Digest, handler: str) -> Change:
        """Take over what metadata says of one image now; without a name it is gone."""
        record = await self._database.read(lambda db: readiness.find(db, image_id, handler))
        return self._change((image_id, handler), record)

    def _change(self, key: Key, record: ImageRecord | None) -> Change:
        before = self._images.get(key)
        self._set(key, record)
        return Change(key, before, self._images.get(key))

    def resolve(self, name: str, handler: str = "") -> Digest | None:
        """The image ID that a client's `name` means, or None.

        Raises:
            InvalidRequestError: neither a reference nor an ID, or an ambiguous truncated ID.
        """
        if found := self._names.get((name, handler)):  # most clients give it as it is stored
            return found
        if not _FULL_ID.fullmatch(name):
            reference = str(Reference.parse(name).canonical())
            if found := self._names.get((reference, handler)):
                return found
        return self._by_id(name) if _ID.fullmatch(name) else None

    def get(self, name: str, handler: str = "") -> Image | None:
        """The image that `name` means for `handler`. Where that is none of ours (any more), it is
        what was pulled for it, else the default one's image, as a pull is for that one then; where
        that has none, or a caller names no handler, another handler's is given."""
        for candidate in self._candidates(handler):
            image_id = self.resolve(name, candidate)
            image = self._images.get((image_id, candidate)) if image_id else None
            if image is not None:
                return image
        return None

    def known_as(self, image: Image, name: str) -> str:
        """Which of the names of `image` a client's `name` is: a reference of it, else its ID."""
        if not _FULL_ID.fullmatch(name):
            reference = str(Reference.parse(name).canonical())
            if reference in image.record.names:
                return reference
        return image.id

    def has(self, name: str, handler: str) -> bool:
        """Whether `name` means an image of exactly this handler."""
        return (self.resolve(name, handler), handler) in self._images

    def find(self, image_id: Digest, handler: str) -> Image | None:
        """The image of exactly this ID and handler."""
        return self._images.get((image_id, handler))

    def of(self, image_id: Digest) -> list[Image]:
        """The images of exactly this ID, for whatever handlers."""
        return [self._images[image_id, handler] for handler in self._handlers_of.get(image_id, ())]

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
            pinned=self._pins.holds(record.names),
        )

    def _candidates(self, handler: str) -> Iterator[str]:
        yield handler
        if handler not in self._handlers:
            yield from sorted(other for other in {"", *self._counts} if other != handler)

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
        return matches[0] if matches else None

    def _set(self, key: Key, record: ImageRecord | None) -> None:
        """The one place where what is here changes."""
        image_id, handler = key
        old = self._images.get(key)
        for name in old.record.names if old else ():
            if self._names.get((name, handler)) == image_id:
                del self._names[name, handler]
        image = self.describe(record) if record else None
        if image is not None:
            for name in (*image.repo_tags, *image.repo_digests):
                self._names[name, handler] = image_id
            self._images[key] = image
            if old is None:
                self._index(image_id, handler)
        elif old is not None:
            del self._images[key]
            self._unindex(image_id, handler)
        if image != old:
            for follower in self._followers:
                follower(key, image)

    def _index(self, image_id: Digest, handler: str) -> None:
        self._counts[handler] += 1
        handlers = self._handlers_of.setdefault(image_id, [])
        if not handlers:
            bisect.insort(self._ids, image_id)
        handlers.append(handler)

    def _unindex(self, image_id: Digest, handler: str) -> None:
        self._counts[handler] -= 1
        if not self._counts[handler]:
            del self._counts[handler]
        handlers = self._handlers_of[image_id]
        handlers.remove(handler)
        if not handlers:
            del self._handlers_of[image_id]
            del self._ids[bisect.bisect_left(self._ids, image_id)]


def _references(record: ImageRecord) -> list[str]:
    return sorted((name for name in record.names if name != record.image_id), key=sort_key)
