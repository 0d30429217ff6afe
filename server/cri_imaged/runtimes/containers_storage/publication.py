"""Our images published for podman, buildah, skopeo and CRI-O, and withdrawn when nobody uses them.

What is published is kept in the store's own lists: an image that was removed here stays there as
long as one of their containers stands on it, across restarts too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from cri_imaged.disk import on_disk
from cri_imaged.errors import ImagedError, InUseError
from cri_imaged.obs.runtime_metrics import RuntimeMetrics
from cri_imaged.oci import lenient_json, media_types
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import LinkStatus, RuntimeSnapshots, Snapshotter
from cri_imaged.runtimes.containers_storage import configs
from cri_imaged.runtimes.containers_storage.records import Layer, image_entry, layer_ids
from cri_imaged.runtimes.containers_storage.store import AdditionalStore
from cri_imaged.runtimes.containers_storage.users import Users, in_use
from cri_imaged.runtimes.images import ImageReader, RuntimeImage
from cri_imaged.shielding import to_the_end

log = structlog.get_logger(__name__)

PATIENCE = 2.0
"""Seconds that a pull or a removal waits."""
_SWEEP_SECONDS = 30.0


class _Blob(msgspec.Struct, rename="camel"):
    media_type: str | None = None
    digest: str = ""
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Blob] | None = None


class Publication:
    """See `ports.RuntimeLink`."""

    name = "containers-storage"

    def __init__(
        self,
        store: AdditionalStore,
        graph_root: Path,
        reader: ImageReader,
        snapshotter: Snapshotter,
        snapshots: RuntimeSnapshots,
        metrics: RuntimeMetrics,
    ) -> None:
        """`graph_root`: where the clients keep their containers. Images that are not in
        `snapshotter`, which is the overlay one, cannot be published."""
        self._store = store
        self._graph_root = graph_root
        self._reader = reader
        self._snapshotter = snapshotter
        self._snapshots = snapshots
        self._metrics = metrics
        self._lock = asyncio.Lock()
        """Held while files are locked: a process lets go of all its locks of a file when it closes
        that anywhere."""
        self._owed: set[Digest] = set()
        self._changed = asyncio.Event()
        self._round: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the next round has ended, which sees what is owed by now."""
        self._stray = True
        """Whether layers may be held that the store does not show: a crash or a failure came
        between the two."""
        self._problem = "not published yet"
        self._since = time.time()

    def status(self) -> LinkStatus:
        """See `ports.RuntimeLink`."""
        up = not self._problem
        return LinkStatus(self.name, "", up, self._since, len(self._owed), self._problem)

    async def foreign_images(self) -> Sequence[str]:
        """See `ports.RuntimeLink`. What it has in its own store is no business of the kubelet's."""
        return ()

    async def images_in_use(self) -> frozenset[Digest]:
        """See `ports.RuntimeLink`."""
        async with self._lock:
            used = await to_the_end(asyncio.to_thread(self._used))
        return frozenset(each for each in (await self._reader.names()).values() if each.hex in used)

    def _used(self) -> frozenset[str]:
        with in_use(self._graph_root) as users:
            return users.images

    async def image_changed(self, image_id: Digest, handler: str) -> None:
        """See `ports.RuntimeLink`."""
        self._owed.add(image_id)
        self._changed.set()
        done, _ = await asyncio.wait({self._round}, timeout=PATIENCE)
        if not done:
            self._failed(f"not published within {PATIENCE:g} s")

    async def run(self) -> None:
        """Publish everything, then what changes, and look from time to time for what nobody uses
        any more."""
        opened = False
        while True:
            self._changed.clear()
            ended, self._round = self._round, asyncio.get_running_loop().create_future()
            try:
                if not opened:
                    await self._open()
                    opened = True
                await self._settle()
            except (ImagedError, OSError) as error:
                self._failed(str(error))
            except Exception as error:
                log.exception("images could not be published; it is tried again")
                self._failed(f"a defect of cri-imaged: {error}")
            ended.set_result(None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._changed.wait()

    async def _open(self) -> None:
        async with self._lock:
            await asyncio.to_thread(self._store.open)
        self._owed.update((await self._reader.names()).values())

    async def _settle(self) -> None:
        failed: Exception | None = None
        async with self._lock:
            for image_id in list(self._owed):
                self._owed.discard(image_id)
                try:
                    await self._bring_in_line(image_id)
                except BaseException as error:
                    self._owed.add(image_id)
                    self._stray = True
                    if isinstance(error, InUseError) or not isinstance(error, Exception):
                        raise  # of no image alone
                    failed = failed or error
            await self._withdraw()
        if failed is not None:
            raise failed
        self._since = self._since if not self._problem else time.time()
        self._problem = ""
        self._metrics.up.set(1)
        self._metrics.owed.set(len(self._owed))

    async def _bring_in_line(self, image_id: Digest) -> None:
        image = await self._reader.read(image_id)
        if image is not None and self._snapshotter.name in image.snapshotters:
            await self._publish(image)

    async def _publish(self, image: RuntimeImage) -> None:
        names = [name for name in image.names if name != image.image_id]
        if not names:
            return  # CRI-O fails every list of images at one without; what is shown is withdrawn
        data = {document.digest: document.data for document in image.documents}
        try:
            created = await on_disk(lambda: configs.created(data[image.image_id]))
        except ValueError as error:
            log.warning(
                "an image is not published: readers cannot read its config",
                image=image.image_id,
                error=str(error),
            )
            return
        await self._snapshots.adopt(image.chain)
        layers = await self._layers(image, data[image.manifest])
        items = {"manifest": data[image.manifest]} | {
            digest if digest == image.image_id else f"manifest-{digest}": each
            for digest, each in data.items()
        }
        top = layers[-1].id if layers else ""
        entry = image_entry(image.image_id, image.manifest, names, top, created, items)
        placed = [(layer, await self._snapshotter.path(layer.chain_id)) for layer in layers]
        began = time.monotonic()
        if await asyncio.to_thread(self._store.publish, entry, items, placed):
            self._metrics.seconds.observe(time.monotonic() - began)
            log.info("image is published in the additional image store", image=image.image_id)

    async def _layers(self, image: RuntimeImage, manifest: bytes) -> list[Layer]:
        listed = lenient_json.decode(manifest, _Manifest).layers or []
        blobs = [blob for blob in listed if blob.media_type in media_types.LAYERS]
        layers: list[Layer] = []
        for layer_id, chain_id, diff_id, blob in zip(
            layer_ids(image.diff_ids), image.chain, image.diff_ids, blobs, strict=True
        ):
            info = await self._snapshotter.info(chain_id)
            layers.append(
                Layer(
                    id=layer_id,
                    parent=layers[-1].id if layers else "",
                    chain_id=chain_id,
                    diff_id=diff_id,
                    size=info.usage.bytes if info else 0,
                    blob=Digest(blob.digest),
                    blob_size=blob.size,
                    media_type=blob.media_type or "",
                )
            )
        return layers

    async def _withdraw(self) -> None:
        """Take away what is gone here and what no container uses, and let go of its layers."""
        names = await self._reader.names()
        known = {image_id.hex for name, image_id in names.items() if name != image_id}
        self._stray |= await asyncio.to_thread(self._sweep, known)
        if not self._stray:
            return
        kept = self._store.chains()
        for snapshot in reversed(await self._snapshots.list()):
            if snapshot.name not in kept:
                await self._snapshots.remove(snapshot.name)
        self._stray = False

    def _sweep(self, known: set[str]) -> bool:
        if not any(self._store.unneeded(known, _NOBODY)):
            return False
        with in_use(self._graph_root) as users:
            images, layers = self._store.unneeded(known, users)
            if images or layers:
                self._store.withdraw(images, layers)
            return bool(images or layers)

    def _failed(self, problem: str) -> None:
        self._metrics.failures.inc()
        self._metrics.up.set(0)
        self._metrics.owed.set(len(self._owed))
        self._since = time.time() if not self._problem else self._since
        self._problem = problem
        log.warning("images will be published later", owed=len(self._owed), error=problem)


_NOBODY = Users(frozenset(), frozenset())
