"""Layers whose first bytes say how they are compressed.

As in containerd, the bytes' magic decides where the media type announces compression, or is
Docker's plain layer, which older tools gave to compressed layers too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.layers.decode.gzip import GZIP, is_gzip
from cri_imaged.layers.decode.plain import PLAIN
from cri_imaged.layers.decode.zstd import ZSTD, is_zstd
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types

_MAGIC_BYTES = 4


def _decode(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    chunks = iter(source)
    head = b""
    while len(head) < _MAGIC_BYTES and (more := next(chunks, b"")):
        head += more
    if not head and encoded.media_type not in media_types.PLAIN_LAYERS:
        raise CorruptContentError(f"layer of type {encoded.media_type} has no bytes at all")
    if is_gzip(head):
        decoder = GZIP
    elif is_zstd(head):
        decoder = ZSTD
    else:
        decoder = PLAIN
    yield from decoder.decode(_joined(head, chunks), encoded, limits)


def _joined(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


SNIFFED = Decoder(_decode)
