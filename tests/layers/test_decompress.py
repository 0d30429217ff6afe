"""Decompression: members, frames, trailers, damage, limits."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.decode.members import CHUNK
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.limits import MIB, Limits
from cri_imaged.oci import media_types
from tests.layers.direct import apply_into, decoded
from tests.support.tarballs import gz, split, zst

GZIP, ZSTD, PLAIN = (
    media_types.OCI_LAYER_GZIP,
    media_types.OCI_LAYER_ZSTD,
    media_types.OCI_LAYER,
)
DATA = random.Random(1).randbytes(3 * MIB // 2) + bytes(3 * MIB // 2)
SKIPPABLE = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 5) + b"skip!"


def whole(source: bytes | Iterable[bytes], media_type: str, limits: Limits | None = None) -> bytes:
    pieces = [source] if isinstance(source, bytes) else source
    chunks = list(decoded(pieces, media_type, limits or Limits()))
    assert all(0 < len(chunk) <= max(CHUNK, len(DATA)) for chunk in chunks)
    return b"".join(chunks)


@pytest.mark.parametrize(
    ("media_type", "blob"),
    [
        (GZIP, gz(DATA)),
        (GZIP, gz(DATA[:5]) + gz(b"") + gz(DATA[5:])),
        (ZSTD, zst(DATA)),
        (ZSTD, zst(DATA[:5]) + SKIPPABLE + zst(b"") + zst(DATA[5:]) + SKIPPABLE),
        (ZSTD, SKIPPABLE + zst(DATA)),
        (PLAIN, DATA),
    ],
)
@pytest.mark.parametrize("sizes", [[1 << 30], [1, 2, 70_000], [65_536]])
def test_whole_streams(media_type: str, blob: bytes, sizes: list[int]) -> None:
    assert whole(split(blob, sizes), media_type) == DATA


@pytest.mark.parametrize("media_type", sorted(media_types.CLEAR_LAYERS))
def test_magic_decides_where_compression_is_announced(media_type: str) -> None:
    plain_by_spec = media_type in (media_types.OCI_LAYER, media_types.OCI_FOREIGN_LAYER)
    for blob in (gz(DATA), zst(DATA)):
        assert whole(blob, media_type) == (blob if plain_by_spec else DATA)
    assert whole(DATA, media_type) == DATA


def test_gzip_header_fields() -> None:
    body = gz(DATA)[10:]
    header = b"\x1f\x8b\x08\x1c" + bytes(6)  # extra, name, comment
    assert whole(header + b"\x03\0abc" + b"name\0" + b"comment\0" + body, GZIP) == DATA


@pytest.mark.parametrize(
    "blob",
    [
        gz(DATA) + b"garbage",
        gz(DATA) + bytes(512),
        gz(DATA) + gz(DATA)[:5],
        zst(DATA) + b"garbage",
        zst(DATA) + SKIPPABLE[:6],
        gz(DATA)[:-8] + bytes(4) + gz(DATA)[-4:],
        gz(DATA)[:-4] + bytes(4),
        b"\x1f\x8b\x08\xff" + gz(DATA)[4:],
        b"",
    ],
    ids=[
        "gzip garbage",
        "gzip zeros",
        "gzip half a member",
        "zstd garbage",
        "zstd half a skippable frame",
        "wrong CRC",
        "wrong length",
        "reserved flags",
        "no bytes",
    ],
)
def test_damage(blob: bytes) -> None:
    with pytest.raises(CorruptContentError, match="layer"):
        whole(blob, ZSTD if blob.startswith(b"\x28") else GZIP)


@pytest.mark.parametrize("pack", [gz, zst])
def test_truncated_at_any_byte(pack: object) -> None:
    blob = pack(DATA[:300] + bytes(300))  # type: ignore[operator]
    for size in range(4, len(blob)):
        with pytest.raises(CorruptContentError, match="truncated"):
            whole(blob[:size], GZIP if pack is gz else ZSTD)


def test_chunks_are_neither_large_nor_many() -> None:
    large = list(decoded([zst(bytes(64 * MIB))], ZSTD, Limits()))
    assert max(map(len, large)) <= CHUNK
    small = list(decoded([gz(b"x" * 100) * 1000], GZIP, Limits()))
    assert len(small) < 10
    text = DATA[:MIB].hex().encode()
    usual = list(decoded(split(gz(text), [CHUNK]), GZIP, Limits()))
    assert len(usual) < 3 * len(text) // CHUNK


def test_layer_bytes(tmp_path: Path) -> None:
    data = bytes(3 * MIB)  # beyond an archive's end everything counts, too
    for blob, media_type in ((gz(data), GZIP), (zst(data), ZSTD), (data, PLAIN)):
        with pytest.raises(LimitExceededError, match="layer_bytes"):
            apply_into(tmp_path, blob, media_type, Limits(layer_bytes=len(data) - 1))
        done, _ = apply_into(tmp_path, blob, media_type, Limits(layer_bytes=len(data)))
        assert done.size == len(data)


def test_ratio_counts_only_beyond_what_is_free() -> None:
    zeros = bytes(8 * MIB)
    for blob, media_type in ((gz(zeros), GZIP), (zst(zeros), ZSTD)):
        assert whole(blob, media_type, Limits(expansion_free_bytes=8 * MIB)) == zeros
        with pytest.raises(LimitExceededError, match="expansion_ratio"):
            whole(blob, media_type, Limits(expansion_free_bytes=4 * MIB))


@pytest.mark.parametrize(("pack", "media_type"), [(gz, GZIP), (zst, ZSTD)])
def test_ratio_is_of_the_whole_blob_whatever_it_begins_with(
    pack: Callable[[bytes], bytes], media_type: str
) -> None:
    limits = Limits(expansion_free_bytes=4 * MIB)
    zeros, noise = bytes(16 * MIB), os.urandom(MIB)
    for parts in ((zeros, noise), (noise, zeros)):
        blob = pack(b"".join(parts))
        told = Encoded(media_type, size=len(blob))
        chunks = decoder_of(media_type).decode(split(blob, [1000]), told, limits)
        assert sum(map(len, chunks)) == 17 * MIB
    bomb = pack(zeros)
    told = Encoded(media_type, size=len(bomb))
    with pytest.raises(LimitExceededError, match="expansion_ratio"):
        list(decoder_of(media_type).decode([bomb], told, limits))


def test_members() -> None:
    for blob, media_type in ((gz(b"x") * 100, GZIP), (zst(b"x") * 100, ZSTD)):
        assert whole(blob, media_type, Limits(layer_entries=100)) == b"x" * 100
        with pytest.raises(LimitExceededError, match="layer_entries"):
            whole(blob, media_type, Limits(layer_entries=99))


def test_zstd_window() -> None:
    limits = Limits(zstd_window_bytes=1 * MIB)
    assert whole(zst(DATA[:MIB], 1), ZSTD, limits)
    with pytest.raises(LimitExceededError, match="zstd_window_bytes"):
        whole(zst(bytes(9 * MIB), 19), ZSTD, limits)


@given(st.binary(max_size=600), st.sampled_from([GZIP, ZSTD]))
@settings(max_examples=300, deadline=None)
def test_fuzz_bytes(data: bytes, media_type: str) -> None:
    magic = b"\x1f\x8b\x08" if media_type == GZIP else b"\x28\xb5\x2f\xfd"
    _refused_or_read(magic + data, media_type)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=4)), max_size=4),
    st.sampled_from([GZIP, ZSTD]),
)
@settings(max_examples=300, deadline=None)
def test_fuzz_damaged_streams(changes: list[tuple[int, bytes]], media_type: str) -> None:
    text = b"".join(b"%d: some text\n" % number for number in range(2000))
    blob = bytearray(gz(text) if media_type == GZIP else zst(text))
    for at, replacement in changes:
        at %= len(blob)
        blob[at : at + len(replacement)] = replacement
    _refused_or_read(bytes(blob), media_type)


def _refused_or_read(data: bytes, media_type: str) -> None:
    limits = Limits(expansion_free_bytes=10 * MIB)
    try:
        whole(split(data, [1, 100]), media_type, limits)
    except (CorruptContentError, LimitExceededError):
        return
    if media_type == GZIP and data.startswith(b"\x1f\x8b\x08"):
        assert zlib.decompressobj(wbits=31).decompress(data) is not None
