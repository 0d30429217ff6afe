"""Exporting: images as one tar, their blobs as they were pulled, verified as they are read."""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from cri_imaged.disk import on_disk
from cri_imaged.errors import (
    CorruptContentError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedContentError,
)
from cri_imaged.images.archives.contents import CONTAINERD_NAME, REF_NAME, Saved
from cri_imaged.images.health.rebuild import stored_image
from cri_imaged.images.leases import holding, never
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.images.stores import Stores
from cri_imaged.metadata import images
from cri_imaged.metadata.images import Exported
from cri_imaged.oci import media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import BlobInfo, Lease
from cri_imaged.shielding import to_the_end

_PIECE = 1 << 20
_END = bytes(2 * tarfile.BLOCKSIZE)
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True, slots=True)
class Chosen:
    """One image, and the names that it has in the archive."""

    image: Exported
    references: tuple[str, ...]


class Exporter:
    """Writes images of the store as archives."""

    def __init__(self, stores: Stores, store: ImageStore) -> None:
        self._stores = stores
        self._store = store

    async def run(
        self, names: Sequence[str], handler: str, *, docker: bool
    ) -> AsyncGenerator[bytes, None]:
        """The archive of the images that `names` mean, in pieces: an OCI image layout, with
        `docker` also what `docker save` adds.

        Raises:
            NotFoundError: no such image.
            CorruptContentError: a blob is damaged; what came of the archive is void.
            UnsupportedContentError: a blob was discarded; or, for `docker`, an artifact.
        """
        async with holding(self._stores.database, keep_for_resume=never) as lease:
            chosen = await self._chosen(names, handler)
            blobs = {blob.digest: blob for each in chosen for blob in each.image.blobs}
            for blob in blobs.values():
                await self._hold(blob, lease)
            yield _file("oci-layout", _LAYOUT)
            yield _file("index.json", _index(chosen))
            if docker:
                saved = [each for image in chosen for each in await self._saved(image)]
                yield _file("manifest.json", msgspec.json.encode(saved))
            for blob in blobs.values():
                async with aclosing(self._blob(blob)) as pieces:
                    async for piece in pieces:
                        yield piece
            yield _END

    async def _chosen(self, names: Sequence[str], handler: str) -> list[Chosen]:
        """Each image once, with all names that were asked for; one that was asked for by its ID,
        with all its tags."""
        found: dict[Digest, Chosen] = {}
        for name in names:
            image = self._store.get(name, handler)
            if image is None:
                raise NotFoundError(f"no image {name} is present")
            asked = _reference(name, image)
            exported = await self._exported(asked or image.id, image.record.handler)
            tags = (asked,) if asked in image.repo_tags else image.repo_tags
            before = found.get(exported.target.digest)
            names_so_far = before.references if before else ()
            found[exported.target.digest] = Chosen(
                exported, tuple(dict.fromkeys((*names_so_far, *filter(None, tags))))
            )
        return list(found.values())

    async def _exported(self, name: str, handler: str) -> Exported:
        exported = await self._stores.database.read(lambda db: images.exported(db, name, handler))
        if exported is None:
            raise NotFoundError(f"image {name} has just been removed")
        return exported

    async def _hold(self, blob: BlobInfo, lease: Lease) -> None:
        held = await self._stores.content.hold(blob.digest, lease)
        if held is None or held.state == "lost":
            raise CorruptContentError(f"blob {blob.digest} is lost; pull its image again")
        if held.state == "discarded":
            raise UnsupportedContentError(
                f"blob {blob.digest} was discarded once it was unpacked "
                "(image.discard_unpacked_layers), so its image cannot be exported"
            )

    async def _saved(self, chosen: Chosen) -> list[Saved]:
        """What `docker load` is to read of an image: one for each platform that is here."""
        found = []
        for digest in chosen.image.manifests:
            manifest, config = await stored_image(self._stores.documents, digest)
            if config.is_artifact:
                raise UnsupportedContentError(
                    f"{digest} is an artifact, which docker cannot load: export it as oci"
                )
            layers = [_path(layer.digest) for layer in manifest.layers]
            found.append(Saved(_path(manifest.config.digest), list(chosen.references), layers))
        return found

    async def _blob(self, blob: BlobInfo) -> AsyncGenerator[bytes, None]:
        yield _header(_path(blob.digest), blob.size)
        hasher = blob.digest.hasher()
        fd = await self._stores.content.source(blob.digest).open()
        try:
            left = blob.size
            while left:
                piece = await to_the_end(on_disk(partial(os.read, fd, min(_PIECE, left))))
                if not piece:
                    break
                await on_disk(partial(hasher.update, piece))
                left -= len(piece)
                yield piece
        finally:
            await to_the_end(on_disk(partial(os.close, fd)))
        if not blob.digest.matches(hasher):
            raise CorruptContentError(
                f"blob {blob.digest} is damaged on disk; `cri-imaged check --repair`, then pull "
                "its image again"
            )
        yield _padding(blob.size)


def _reference(name: str, image: Image) -> str | None:
    """`name` as a reference of the image, or None where it is (the beginning of) its ID."""
    with suppress(InvalidRequestError):
        reference = str(Reference.parse(name).canonical())
        if reference in image.record.names:
            return reference
    return None


def _index(chosen: Sequence[Chosen]) -> bytes:
    """An `index.json`: an entry for each name, as containerd writes it."""
    entries = []
    for each in chosen:
        target = each.image.target
        entry = {"mediaType": target.media_type, "digest": str(target.digest), "size": target.size}
        for name in each.references:
            tag = Reference.parse(name).tag
            notes = {CONTAINERD_NAME: name, **({REF_NAME: tag} if tag else {})}
            entries.append({**entry, "annotations": notes})
        if not each.references:
            entries.append(entry)
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}
    return msgspec.json.encode(document)


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _file(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + _padding(len(data))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
