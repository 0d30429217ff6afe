"""Images as they go over the wire: made when an image changes, not for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cri_imaged.cri import convert
from cri_imaged.images.store import Image, ImageStore, Key
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri


class ReadyImages:
    """Each image of a store, serialised as field 1 of a message. That is an ImageStatusResponse;
    and any number of them, joined, are a ListImagesResponse and a StreamImagesResponse."""

    def __init__(self, store: ImageStore, shown_id: Callable[[Image], str]) -> None:
        self._shown_id = shown_id
        self._pieces: dict[Key, bytes] = {}
        store.follow(self._changed)

    def of(self, image: Image) -> bytes:
        """One that the store has now."""
        return self._pieces[image.id, image.record.handler]

    def all(self) -> Iterable[bytes]:
        """Those that the store has now, in its order."""
        return self._pieces.values()

    def batches(self, size: int) -> Iterator[bytes]:
        """All of them, up to `size` in each. The store may change in between: each is shown as it
        is when its batch is made, what has gone by then is not, and what came is shown last."""
        shown: set[Key] = set()
        while wanted := [key for key in self._pieces if key not in shown]:
            for start in range(0, len(wanted), size):
                batch = wanted[start : start + size]
                shown.update(batch)
                if pieces := [self._pieces[key] for key in batch if key in self._pieces]:
                    yield b"".join(pieces)

    def _changed(self, key: Key, image: Image | None) -> None:
        if image is None:
            del self._pieces[key]
        else:
            message = convert.image_message(image, self._shown_id(image))
            self._pieces[key] = cri.ImageStatusResponse(image=message).SerializeToString()
