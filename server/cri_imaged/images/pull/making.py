"""The last step of a pull, and of an import: what was selected becomes an image under its names."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from cri_imaged.images.handlers import Handler
from cri_imaged.images.pull.plan import compressed_size
from cri_imaged.images.pull.progress import PullProgress
from cri_imaged.images.pull.ready import ImageMaker, Wanted
from cri_imaged.images.pull.select import Selected
from cri_imaged.images.transfers.claims import image_labels
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.metadata import images, readiness
from cri_imaged.metadata.images import NewImage
from cri_imaged.metadata.readiness import ImageRecord
from cri_imaged.oci import artifacts
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Lease


async def make_image(
    maker: ImageMaker,
    selected: Selected,
    references: Sequence[str],
    handler: Handler,
    rights: Rights,
    lease: Lease,
    progress: PullProgress | None = None,
    also: Callable[[sqlite3.Connection], object] = lambda _: None,
    spends: tuple[Lease, ...] = (),
) -> ImageRecord:
    """Make what was selected ready for a runtime handler, under its ID and `references`. `also`
    belongs to the transaction that makes it known, in which `spends` end. Raises as
    `ImageMaker.make_ready`."""
    manifest = selected.manifest
    image_id = artifacts.image_id(selected.descriptor.digest, manifest, selected.config)
    names = tuple(dict.fromkeys((image_id, *references)))

    def save(db: sqlite3.Connection, chain_id: Digest | None) -> ImageRecord:
        images.save(
            db,
            NewImage(
                image_id=image_id,
                handler=handler.name,
                names=names,
                target=selected.target,
                manifest=selected.descriptor.digest,
                documents=frozenset(selected.documents).union(
                    blob.digest for blob in manifest.blobs
                ),
                layers=frozenset(layer.digest for layer in manifest.layers),
                size=compressed_size(selected.target, selected.descriptor, manifest),
                user=selected.config.user,
                snapshotter=handler.snapshotter.name,
                chain_id=chain_id,
            ),
        )
        also(db)
        record = readiness.find(db, image_id, handler.name)
        if record is None:
            raise RuntimeError(f"image {image_id} is not ready though all of it is here")
        return record

    wanted = Wanted(
        manifest=manifest,
        config=selected.config,
        names=names,
        handler=handler.name,
        snapshotter=handler.snapshotter,
        labels=image_labels(references[0] if references else image_id, selected.descriptor.digest),
        rights=rights,
        spends=spends,
    )
    # Somebody may remove the image right after: it was brought in all the same.
    return await maker.make_ready(wanted, lease, save, progress)
