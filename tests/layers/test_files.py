"""Blobs that are one file each, read as archives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.layers.tar.reader import TarReader
from cri_imaged.limits import GIB, Limits
from cri_imaged.oci.descriptor import TITLE
from cri_imaged.oci.media_types import FILE_LAYER
from tests.layers.direct import apply_into


def as_archive(name: str, size: int, *chunks: bytes) -> list[bytes]:
    encoded = Encoded(FILE_LAYER, {TITLE: name}, size)
    return list(decoder_of(FILE_LAYER).decode(chunks, encoded, Limits()))


@pytest.mark.parametrize("name", ["a", "a/b/c.txt", "ä" * 50, "é" * 51, "d/" * 500 + "x" * 255])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_000])
def test_an_archive_of_one_file(name: str, size: int) -> None:
    data = bytes(range(256)) * 400
    stream = b"".join(as_archive(name, size, data[: size // 2], data[size // 2 : size]))
    assert len(stream) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(stream)) as opened:
        (member,) = opened
        assert (member.name, member.size, member.mode) == (name, size, 0o644)
        assert (member.uid, member.gid, member.mtime, member.isreg()) == (0, 0, 0, True)
        file = opened.extractfile(member)
        assert file is not None
        assert file.read() == data[:size]


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 100 * GIB])
def test_a_file_of_any_size(size: int) -> None:
    encoded = Encoded(FILE_LAYER, {TITLE: "weights"}, size)
    header = next(decoder_of(FILE_LAYER).decode([b"x"], encoded, Limits()))
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == size
    (entry, _), *_ = TarReader(Limits()).feed(header + b"x")
    assert entry is not None
    assert entry.size == size


def test_a_blob_of_another_size_than_its_manifest_says() -> None:
    for size in (1, 3):
        with pytest.raises(CorruptContentError, match=f"2 bytes, its manifest says {size}"):
            as_archive("a", size, b"ab")


def test_the_file_on_disk(tmp_path: Path) -> None:
    apply_into(tmp_path, as_archive("d/f", 3, b"abc"))
    assert (tmp_path / "d" / "f").read_bytes() == b"abc"
