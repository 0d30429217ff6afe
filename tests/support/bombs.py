"""Archives that expand to far more than they are, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from cri_imaged.limits import GIB, MIB
from cri_imaged.oci import media_types
from tests.support import tarballs as t

GZIP, ZSTD = media_types.OCI_LAYER_GZIP, media_types.OCI_LAYER_ZSTD
STEP = 64 * MIB
ZEROS = t.header("zeros", size=32 * GIB)


def repeated_gzip(head: bytes, unit: bytes, count: int) -> Iterator[bytes]:
    """One gzip member of `head` and `count` times `unit`, each compressed once."""
    compressor = zlib.compressobj(9, wbits=31)
    yield compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    part = compressor.compress(unit) + compressor.flush(zlib.Z_FULL_FLUSH)
    for _ in range(count):
        yield part


def gzip_zeros() -> Iterator[bytes]:
    yield from repeated_gzip(ZEROS, bytes(STEP), 32 * GIB // STEP)


def zstd_zeros() -> Iterator[bytes]:
    yield t.zst(ZEROS)
    part = t.zst(bytes(STEP))
    for _ in range(32 * GIB // STEP):
        yield part


def zeros_after_the_end() -> Iterator[bytes]:
    yield from repeated_gzip(t.END, bytes(STEP), 8 * GIB // STEP)


def empty_entries() -> Iterator[bytes]:
    thousand = t.header("empty/", b"5") * 1000
    yield from repeated_gzip(b"", thousand, 10_000)


def many_members() -> Iterator[bytes]:
    part = t.gz(b"") * 10_000
    for _ in range(401):
        yield part


def large_window() -> Iterator[bytes]:
    exponent = 30 - 10
    raw_block = (5 << 3 | 1).to_bytes(3, "little") + b"hello"
    yield b"\x28\xb5\x2f\xfd" + bytes([0, exponent << 3]) + raw_block


def pax_of_gigabytes() -> Iterator[bytes]:
    yield from repeated_gzip(t.header("pax", b"x", size=4 * GIB), b"9 a=bcde\n" * 7_000_000, 64)


BOMBS: dict[str, tuple[str, Callable[[], Iterator[bytes]], str]] = {
    "32 GiB of zeros in gzip": (GZIP, gzip_zeros, "expansion_ratio"),
    "32 GiB of zeros in zstd": (ZSTD, zstd_zeros, "expansion_ratio"),
    "8 GiB of zeros after the end": (GZIP, zeros_after_the_end, "expansion_ratio"),
    "10 million empty entries": (GZIP, empty_entries, "expansion_ratio|layer_entries"),
    # Where that takes long, as under coverage, the decoder is given up first.
    "4 million gzip members": (GZIP, many_members, "layer_entries|makes nothing of its bytes"),
    "a zstd window of 1 GiB": (ZSTD, large_window, "zstd_window_bytes"),
    "a PAX header of 4 GiB": (GZIP, pax_of_gigabytes, "pax_header_bytes"),
}
"""Media type, pieces, and the limits one of which stops it."""
