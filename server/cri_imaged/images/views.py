"""Views: an image's root file system given out as mounts, until it is released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cri_imaged.errors import NotFoundError
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.ports import Mount, Snapshotter, View


class Views:
    """Creates, lists and releases views across snapshotters. A key is unique among them."""

    def __init__(
        self,
        store: ImageStore,
        snapshotters: Mapping[str, Snapshotter],
        collector: GarbageCollector,
    ) -> None:
        self._store = store
        self._snapshotters = snapshotters
        self._collector = collector

    async def create(
        self, name: str, handler: str, key: str, *, writable: bool
    ) -> tuple[Image, Sequence[Mount]]:
        """Give out the image that `name` means as mounts, to be done in the caller's namespace.

        Raises:
            NotFoundError: there is no such image.
            InvalidRequestError: `name` is malformed, or `key` is in use for something else.
        """
        image = self._store.get(name, handler)
        if image is None:
            raise NotFoundError(f"image {name!r} is not on this node; pull it first")
        snapshotter = self._snapshotters[image.record.snapshotter]
        mounts = await snapshotter.view(key, image.record.chain_id, writable=writable)
        return image, mounts

    async def list(self) -> Sequence[tuple[str, View]]:
        """Every view with its snapshotter's name, ordered by key."""
        found = [
            (name, view)
            for name, snapshotter in self._snapshotters.items()
            for view in await snapshotter.views()
        ]
        return sorted(found, key=lambda pair: pair[1].key)

    async def release(self, key: str) -> None:
        """Take a view back. Releasing what is not there succeeds."""
        for snapshotter in self._snapshotters.values():
            await snapshotter.remove(key)
        self._collector.trigger()
