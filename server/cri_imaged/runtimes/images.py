"""Our images as a runtime is told of them: names, documents, and the chain of their layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cri_imaged.disk import on_disk
from cri_imaged.limits import Limits
from cri_imaged.metadata import readiness, targets
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.readiness import ImageRecord
from cri_imaged.oci import lenient_json
from cri_imaged.oci.chain import chain_ids
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import parse_config
from cri_imaged.ports import ContentStore


@dataclass(frozen=True, slots=True)
class Document:
    """An index, a manifest or a config."""

    digest: Digest
    data: bytes
    config: Digest | None
    """That of a manifest."""
    manifests: tuple[Digest, ...]
    """Those of an index that are here as well."""


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """A ready image."""

    image_id: Digest
    names: Mapping[str, Descriptor]
    """The image ID, then tags, then repository digests: each with what it resolved to."""
    manifest: Digest
    """The manifest of this machine's platform."""
    documents: tuple[Document, ...]
    """What is referred to stands before what refers to it."""
    snapshotters: tuple[str, ...]
    """Ours that hold its layers, for one runtime handler or another."""
    diff_ids: tuple[Digest, ...]
    chain: tuple[Digest, ...]
    """The chainID of each stack of layers, lowest first."""
    pinned: bool


class _Reference(msgspec.Struct):
    digest: str = ""


class _Links(msgspec.Struct):
    config: _Reference | None = None
    manifests: list[Any] | None = None
    """An index may list anything besides what was chosen of it."""


class ImageReader:
    """Reads images from the store as they are now."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        limits: Limits,
        is_pinned: Callable[[Collection[str]], bool],
        snapshotters: Collection[str],
    ) -> None:
        """`is_pinned` tells it of an image's names. `snapshotters`: those that runtimes are given
        layers of; an image in others alone is none to them."""
        self._database = database
        self._content = content
        self._limits = limits
        self._is_pinned = is_pinned
        self._snapshotters = frozenset(snapshotters)

    async def names(self) -> dict[str, Digest]:
        """Every name, image IDs among them, with the ready image that bears it. Artifacts are
        left out: no runtime could make anything of one without an image's config."""
        records = await self._database.read(readiness.all_ready)
        return {
            name: record.image_id
            for record in sorted(records, key=lambda record: record.handler, reverse=True)
            if self._is_theirs(record)
            for name in record.names
        }

    async def chains(self) -> set[Digest]:
        """The chainIDs of all layers that an image stands on, the lower ones too."""
        return await self._database.read(targets.chains)

    async def touched(self, subject: str) -> set[Digest]:
        """The images that have `subject` for a name, a document, or the chainID of layers."""
        return await self._database.read(lambda db: targets.touched(db, subject))

    async def read(self, image_id: Digest) -> RuntimeImage | None:
        """The image, or None where it is not there, not ready, or an artifact.

        Raises:
            ImagedError: one of its documents is damaged.
        """
        records, names, digests = await self._database.read(
            lambda db: (
                [readiness.find(db, image_id, each) for each in targets.handlers(db, image_id)],
                targets.named(db, image_id),
                targets.documents(db, image_id),
            )
        )
        ready = [record for record in records if record is not None and self._is_theirs(record)]
        if not ready:
            return None
        longest = max(self._limits.manifest_bytes, self._limits.config_bytes)
        data = {digest: await self._content.read(digest, longest) for digest in digests}
        return await on_disk(lambda: self._image(image_id, names, data, ready))

    def _image(
        self,
        image_id: Digest,
        names: Mapping[str, Descriptor],
        data: Mapping[Digest, bytes],
        ready: Sequence[ImageRecord],
    ) -> RuntimeImage:
        """In a thread: documents may be costly to decode."""
        config = parse_config(data[image_id], self._limits)
        return RuntimeImage(
            image_id=image_id,
            names=dict(sorted(names.items(), key=lambda item: _rank(item[0], image_id))),
            manifest=ready[0].manifest,
            documents=_ordered(data, image_id),
            snapshotters=tuple(dict.fromkeys(record.snapshotter for record in ready)),
            diff_ids=config.diff_ids,
            chain=tuple(chain_ids(config.diff_ids)),
            pinned=any(self._is_pinned(record.names) for record in ready),
        )

    def _is_theirs(self, record: ImageRecord) -> bool:
        return not record.is_artifact and record.snapshotter in self._snapshotters


def _rank(name: str, image_id: Digest) -> tuple[bool, bool, str]:
    return name != image_id, "@" in name, name


def _ordered(data: Mapping[Digest, bytes], config: Digest) -> tuple[Document, ...]:
    """Configs, manifests, indexes of manifests, indexes of indexes."""
    waiting = {digest: _document(digest, data, config) for digest in data}
    ordered: list[Document] = []
    while waiting:
        free = [
            document
            for document in waiting.values()
            if document.config not in waiting and waiting.keys().isdisjoint(document.manifests)
        ]
        for document in free:
            ordered.append(waiting.pop(document.digest))
    return tuple(ordered)


def _document(digest: Digest, data: Mapping[Digest, bytes], config: Digest) -> Document:
    if digest == config:
        return Document(digest, data[digest], None, ())
    links = lenient_json.decode(data[digest], _Links)
    listed = [each.get("digest") for each in links.manifests or () if isinstance(each, dict)]
    manifests = tuple(
        Digest(digest) for digest in listed if isinstance(digest, str) and digest in data
    )
    own = links.config.digest if links.config else ""
    return Document(digest, data[digest], Digest(own) if own in data else None, manifests)
