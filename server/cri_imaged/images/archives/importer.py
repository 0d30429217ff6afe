"""Importing: an archive is spooled whole, its files as blobs under a lease, and then each of its
images is made ready. What ends before that leaves nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from cri_imaged.errors import CorruptContentError, InvalidRequestError, SignatureRejectedError
from cri_imaged.images.archives import contents
from cri_imaged.images.archives.contents import Archive, File, Layout, Packed
from cri_imaged.images.archives.source import REPOSITORY, ArchiveSource
from cri_imaged.images.archives.tar import TarReader
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.handlers import Handler
from cri_imaged.images.leases import holding, never
from cri_imaged.images.pull.documents import Documents
from cri_imaged.images.pull.making import make_image
from cri_imaged.images.pull.ready import ImageMaker
from cri_imaged.images.pull.select import select
from cri_imaged.images.pull.space import Space
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.fetch import Origin
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.images.transfers.transfers import Transfers
from cri_imaged.images.verification.attached import Candidate
from cri_imaged.images.verification.verifier import Verifier
from cri_imaged.metadata import images
from cri_imaged.metadata import signers as signer_rows
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Activity, Lease, Usage

log = structlog.get_logger()

_HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Imported:
    """One image that an archive has brought."""

    image_id: Digest
    names: tuple[str, ...]
    """References; empty where it has none but its ID."""
    target: Digest
    """Of the index or manifest that it came as."""


class _Spooled:
    """What an import has put on the disk: a `Writing`, which gives way where space is short."""

    outstanding = 0

    def __init__(self) -> None:
        self._bytes = self._files = 0

    def count(self, size: int) -> None:
        """One more file, of this size."""
        self._bytes += size
        self._files += 1

    async def taken(self) -> Usage:
        """See `Writing`."""
        return Usage(self._bytes, self._files)


class Importer:
    """Brings images in from archives."""

    def __init__(
        self,
        stores: Stores,
        transfers: Transfers,
        maker: ImageMaker,
        space: Space,
        collector: GarbageCollector,
        verifier: Verifier,
    ) -> None:
        self._stores = stores
        self._transfers = transfers
        self._maker = maker
        self._space = space
        self._collector = collector
        self._verifier = verifier
        self._limits = stores.documents.limits

    async def run(
        self,
        chunks: AsyncIterator[bytes],
        handler: Handler,
        name: str = "",
        activity: Activity | None = None,
    ) -> AsyncGenerator[Imported, None]:
        """Import the archive that `chunks` are, and tell of each image as it gets ready. `name`
        stands in place of the archive's names. Without `activity` it is a client's.

        Raises:
            ImagedError: each of its kinds; images that were told of stay.
        """
        try:
            async with holding(self._stores.database, keep_for_resume=never) as lease:
                archive = await self._spool(chunks, lease)
                layout = await self._layout(archive, lease)
                if not layout.images:
                    raise CorruptContentError("archive: it holds no image")
                source = ArchiveSource(archive, layout.attached, self._stores.content, self._limits)
                origin = Origin(source, REPOSITORY, REPOSITORY, activity or Activity())
                for each, references in contents.references(layout.images, name):
                    signers = await self._verified(each, references, source)
                    yield await self._import(each, references, origin, handler, lease, signers)
        finally:
            self._collector.trigger()

    async def _spool(self, chunks: AsyncIterator[bytes], lease: Lease) -> Archive:
        archive, spooled = Archive(), _Spooled()
        reader = TarReader(chunks, self._limits)
        with self._space.claim(spooled) as claim, claim.at_work():
            async with aclosing(reader.entries()) as entries:
                async for entry in entries:
                    archive.files.pop(entry.name, None)
                    archive.links.pop(entry.name, None)
                    if entry.target:
                        archive.links[entry.name] = entry.target
                    else:
                        archive.files[entry.name] = await self._take(entry.name, reader, lease)
                        spooled.count(entry.size)
        return archive

    async def _take(self, name: str, reader: TarReader, lease: Lease) -> File:
        algorithm, promised = contents.named_digest(name)
        head = b""
        async with self._stores.content.spool(algorithm, lease) as spool:
            async for piece in reader.body():
                head = head or piece[:_HEAD_BYTES]
                await self._space.room_for(len(piece))
                await spool.write(piece)
            info = await spool.commit()
        if promised and promised != info.digest:
            raise CorruptContentError(f"archive: {name} has other bytes: they are {info.digest}")
        return File(info.digest, info.size, head)

    async def _layout(self, archive: Archive, lease: Lease) -> Layout:
        documents, limits = self._stores.documents, self._limits
        if (layout := archive.find("index.json")) is not None:
            return await documents.manifest(
                layout.digest, lambda data: contents.read_layout(data, limits)
            )
        listing = archive.find("manifest.json")
        if listing is None:
            raise CorruptContentError(
                "archive: it has neither an index.json (OCI image layout) nor a manifest.json "
                "(docker save)"
            )
        found: dict[Digest, Packed] = {}
        for saved in await documents.manifest(
            listing.digest, lambda data: contents.images_of_docker(data, limits)
        ):
            manifest = contents.manifest_of(saved, archive, limits)
            digest = Digest.of(manifest)
            await self._stores.content.put(digest, manifest, lease)
            archive.files[f"{digest}"] = File(digest, len(manifest), b"")
            target = Descriptor(media_types.DOCKER_MANIFEST, digest, len(manifest))
            tags = [tag for tag in saved.repo_tags or () if tag != contents.UNTAGGED]
            names = (*(found[digest].names if digest in found else ()), *tags)
            found[digest] = Packed(target, names, (), has_digest=False)
        return Layout(list(found.values()), {})

    async def _verified(
        self, packed: Packed, references: Sequence[Reference], source: ArchiveSource
    ) -> dict[Reference, str]:
        """The keys that signed the image, for those of its names that want one."""
        found: dict[Reference, str] = {}
        try:
            if not references:
                await self._verifier.verify_nameless(packed.target)
            for reference in references:
                candidate = Candidate(reference.canonical(), packed.target, source, source, None)
                if (signer := await self._verifier.verify(candidate)) is not None:
                    found[reference.canonical()] = signer
        except SignatureRejectedError as error:
            raise error.within("archive") from None
        return found

    async def _import(
        self,
        packed: Packed,
        references: tuple[Reference, ...],
        origin: Origin,
        handler: Handler,
        lease: Lease,
        signers: Mapping[Reference, str],
    ) -> Imported:
        rights = Rights(self._stores.database, origin, trusts_store=False)
        documents = Documents(self._stores, self._transfers, lease, rights)
        selected = await select(packed.target, handler.platform, documents, self._limits)
        names = tuple(dict.fromkeys(_names(references, packed)))

        def mark(db: sqlite3.Connection) -> None:
            images.imported(db, handler.name, selected.target.digest, selected.descriptor.digest)
            for each, key in signers.items():
                signer_rows.add(db, str(each), handler.name, each.name, key)

        record = await make_image(self._maker, selected, names, handler, rights, lease, also=mark)
        log.info(
            "image imported", image_id=record.image_id, names=names, target=packed.target.digest
        )
        return Imported(record.image_id, names, packed.target.digest)


def _names(references: tuple[Reference, ...], packed: Packed) -> list[str]:
    """What the image is called. A digest is told only where the archive has it: who made a manifest
    up gives no promise that a registry has the same."""
    names = []
    for reference in references:
        canonical = reference.canonical()
        if canonical.digest not in (None, packed.target.digest):
            raise InvalidRequestError(
                f"archive: the image named {reference} has the digest {packed.target.digest}"
            )
        names.append(str(canonical))
        if packed.has_digest:
            names.append(str(canonical.at_digest(packed.target.digest)))
    return names
