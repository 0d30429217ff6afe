"""One image in containerd: documents in its content store, our layers by their chain, records.

No layer is copied: containerd runs an image whose layers' blobs it lacks (it does the same itself
with `discard_unpacked_layers`), as long as the labels keep its collector from what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from cri_imaged.oci.digest import Digest
from cri_imaged.ports import RuntimeSnapshots
from cri_imaged.rpc.containerd.images import images_pb2
from cri_imaged.runtimes.containerd.client import Containerd
from cri_imaged.runtimes.images import Document, RuntimeImage

OUR_LABEL = "io.cri-imaged.image"
"""On each record that we made: the ID of the image. Only what bears it is mended or removed."""

_CRI_LABEL = "io.cri-containerd.image"
_CRI_PINNED = "io.cri-containerd.pinned"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One of our snapshotters as containerd has it."""

    name: str
    """In containerd's configuration."""
    snapshots: RuntimeSnapshots


class Registration:
    """Brings single images in line."""

    def __init__(
        self, client: Containerd, plugins: Mapping[str, Plugin], *, follow_cri: bool
    ) -> None:
        """`plugins`: by the name of our snapshotter. `follow_cri`: whether the namespace is the
        one of containerd's CRI plugin."""
        self._client = client
        self._plugins = plugins
        self._follow_cri = follow_cri

    async def register(self, image: RuntimeImage) -> bool:
        """Have containerd know `image` by all its names, and by no other. False where it did.

        Raises:
            ContainerdError: it could not be told.
            ImagedError: layers are not here any more.
        """
        for name in image.snapshotters:
            await self._plugins[name].snapshots.adopt(image.chain)
        records = {each.name: each for each in await self._records(image.image_id)}
        stale = records.keys() - image.names.keys()
        missing = await self._is_missing(image, records)
        if missing:
            await self._write(image)
        for name in stale:
            await self._client.delete_image(name, collect=False)
        return missing or bool(stale)

    async def unregister(self, image_id: Digest) -> bool:
        """Delete every record of ours for an image that is gone, and have containerd let go of
        what they held. False where there was none. Raises `ContainerdError`."""
        names = [record.name for record in await self._records(image_id)]
        for name in names:
            await self._client.delete_image(name, collect=name == names[-1])
        return bool(names)

    async def registered(self) -> dict[str, str]:
        """Each record of ours: its name, and the ID of its image. Raises `ContainerdError`."""
        return {each.name: each.labels[OUR_LABEL] for each in await self._client.images(OUR_LABEL)}

    async def foreign(self) -> list[str]:
        """Names of the records that are not ours. Raises `ContainerdError`."""
        ours = await self.registered()
        return sorted(each.name for each in await self._client.images() if each.name not in ours)

    async def _records(self, image_id: Digest) -> list[images_pb2.Image]:
        return await self._client.images(OUR_LABEL, image_id)

    async def _is_missing(
        self, image: RuntimeImage, records: Mapping[str, images_pb2.Image]
    ) -> bool:
        wanted = _record_labels(image)
        for name, target in image.names.items():
            record = records.get(name)
            if record is None or record.target.digest != target.digest:
                return True
            if any(record.labels.get(key, "") != value for key, value in wanted.items()):
                return True
        found = await asyncio.gather(
            *(self._client.has_document(document.digest) for document in image.documents),
            *(
                self._client.has_snapshot(self._plugins[name].name, image.chain[-1])
                for name in image.snapshotters
                if image.chain
            ),
        )
        return not all(found)

    async def _write(self, image: RuntimeImage) -> None:
        # One that is left over by a failure ends by itself.
        lease = await self._client.begin_lease()
        await asyncio.gather(
            *(
                self._client.put_document(
                    document.digest, document.data, self._labels(image, document), lease
                )
                for document in image.documents
            ),
            *(self._adopt(name, image, lease) for name in image.snapshotters),
        )
        labels = _record_labels(image)
        await asyncio.gather(
            *(self._client.put_image(name, target, labels) for name, target in image.names.items())
        )
        waited_for = image.names if self._follow_cri else ()
        await asyncio.gather(
            self._client.end_lease(lease), *(self._client.wait_for_cri(name) for name in waited_for)
        )

    async def _adopt(self, snapshotter: str, image: RuntimeImage, lease: str) -> None:
        parent = ""
        for chain_id in image.chain:
            await self._client.adopt(self._plugins[snapshotter].name, chain_id, parent, lease)
            parent = chain_id

    def _labels(self, image: RuntimeImage, document: Document) -> dict[str, str]:
        """What containerd's collector follows from a document. Layers are left out: they are not
        there. Each manifest of an index has a label of its own: another image may be of the same
        index, for another platform."""
        labels = {
            f"containerd.io/gc.ref.content.m.{manifest.hex[:12]}": str(manifest)
            for manifest in document.manifests
        }
        if document.config is not None:
            labels["containerd.io/gc.ref.content.config"] = document.config
        if document.digest == image.image_id and image.chain:
            for name in image.snapshotters:
                plugin = self._plugins[name].name
                labels[f"containerd.io/gc.ref.snapshot.{plugin}"] = image.chain[-1]
        return labels


def _record_labels(image: RuntimeImage) -> dict[str, str]:
    """containerd keeps no empty label: one that is there goes."""
    pinned = "pinned" if image.pinned else ""
    return {OUR_LABEL: str(image.image_id), _CRI_LABEL: "managed", _CRI_PINNED: pinned}
