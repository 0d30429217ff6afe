"""Layers that are not compressed at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.limits import Limits


def _decode(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    return iter(source)


PLAIN = Decoder(_decode, is_native=False)
