"""What running pulls keep of their manifests for as long as they last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cri_imaged.errors import QueueFullError
from cri_imaged.images.pull.shares import Share, Shares
from cri_imaged.limits import KIB, Limits
from cri_imaged.oci import described
from cri_imaged.oci.documents import Manifest

_UNIT = 64 * KIB
"""Memory that each pull may keep in any case."""
_PART = 4
"""One part of `memory_bytes` in so many is for what is more."""


class Texts:
    """Memory of media types, URLs and annotations, in fair shares. It is held however slowly a
    registry sends layers, so who finds no room is refused: a wait might have no end."""

    def __init__(self, limits: Limits) -> None:
        self._shares = Shares(limits.memory_bytes // _PART // _UNIT)

    @contextmanager
    def kept(self, share: Share, manifest: Manifest) -> Iterator[None]:
        """Keep those of a manifest while the context lasts.

        Raises:
            QueueFullError: pulls of the share keep as much as they may.
        """
        listed = (manifest.config, *manifest.layers, *manifest.blobs)
        units = sum(map(described.memory, listed)) // _UNIT
        taken = 0
        try:
            while taken < units:
                if not self._shares.admits(share):
                    kept = self._shares.held(share) * _UNIT
                    raise QueueFullError(
                        f"pulls from {share} keep {kept} bytes of their manifests' annotations, "
                        "their share of image.limits.memory_bytes; try again later"
                    )
                self._shares.take(share)
                taken += 1
            yield
        finally:
            for _ in range(taken):
                self._shares.give_back(share)
