"""Docker schema 1 manifests become schema 2 images when they are pulled."""

from __future__ import annotations

import uuid

from cri_imaged.errors import ImagedError, LimitExceededError
from cri_imaged.images.pull.documents import Documents
from cri_imaged.images.pull.ready import ImageMaker
from cri_imaged.images.stores import Stores
from cri_imaged.oci import media_types, schema1
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.schema1 import Unpacked
from cri_imaged.ports import Applier, Fetcher, Lease, Snapshotter
from cri_imaged.shielding import to_the_end


class Schema1Converter:
    """Makes what a schema 1 manifest leaves out. Of a layer that no image of this store has, that
    takes to unpack it once more than it is needed."""

    def __init__(
        self, stores: Stores, maker: ImageMaker, applier: Applier, *, enabled: bool
    ) -> None:
        """Where it is not `enabled`, schema 1 manifests are left to be refused."""
        self._stores = stores
        self._maker = maker
        self._applier = applier
        self._enabled = enabled

    async def converted(
        self, target: Descriptor, documents: Documents, snapshotter: Snapshotter
    ) -> Descriptor:
        """The schema 2 manifest that `target` is converted to, its layers from the registry; any
        other target as it is. Both are held by the lease of `documents`.

        Raises:
            ImagedError: each of its kinds.
        """
        if not self._enabled or target.media_type not in media_types.SCHEMA1:
            return target
        stored = self._stores.documents
        listed = await stored.manifest(
            target.digest, lambda data: schema1.layers(data, stored.limits)
        )
        blobs = await self._unpacked(listed, documents, snapshotter)
        manifest, config = await stored.manifest(
            target.digest, lambda data: schema1.converted(data, blobs, stored.limits)
        )
        made = Descriptor(media_types.DOCKER_MANIFEST, Digest.of(manifest), len(manifest))
        await documents.made(
            Descriptor(media_types.DOCKER_CONFIG, Digest.of(config), len(config)), config
        )
        await documents.made(made, manifest)
        return made

    async def _unpacked(
        self, listed: tuple[Digest, ...], documents: Documents, snapshotter: Snapshotter
    ) -> dict[Digest, Unpacked]:
        found = {
            made.blob: Unpacked(made.blob_size, made.diff_id)
            for snapshot in await snapshotter.walk()
            for made in snapshot.provenance
            if made.blob in listed
        }
        unknown = [
            await self._described(digest, documents.rights.origin.fetcher)
            for digest in dict.fromkeys(listed)
            if digest not in found
        ]
        await self._maker.fetch(unknown, documents.rights, snapshotter, documents.lease)
        for blob in unknown:
            diff_id = await self._diff_id(blob, snapshotter, documents.lease)
            found[blob.digest] = Unpacked(blob.size, diff_id)
        return found

    async def _described(self, digest: Digest, fetcher: Fetcher) -> Descriptor:
        size, limit = await fetcher.size(digest), self._stores.documents.limits.layer_bytes
        if size > limit:
            raise LimitExceededError(f"layer {digest} has {size} bytes, limit {limit}")
        return Descriptor(media_types.DOCKER_LAYER_GZIP, digest, size)

    async def _diff_id(self, layer: Descriptor, snapshotter: Snapshotter, lease: Lease) -> Digest:
        key = f"schema1-{uuid.uuid4().hex}"
        try:
            into = await snapshotter.prepare(key, None, lease)
            source = self._stores.content.source(layer.digest)
            return (await self._applier.apply(source, layer, into)).diff_id
        except ImagedError as error:
            raise error.within(f"layer {layer.digest}") from error
        finally:
            await to_the_end(snapshotter.remove(key))
