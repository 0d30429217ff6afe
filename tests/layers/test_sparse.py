"""Sparse files in the four formats that GNU tar writes, by GNU tar itself and by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits
from tests.layers.direct import apply_into
from tests.support import tarballs as t
from tests.support.require import require_real

FORMATS = {
    "old GNU": ["--format=gnu"],
    "PAX 0.0": ["--format=pax", "--sparse-version=0.0"],
    "PAX 0.1": ["--format=pax", "--sparse-version=0.1"],
    "PAX 1.0": ["--format=pax", "--sparse-version=1.0"],
}
MIB = 1 << 20


def holes(path: Path, parts: int, length: int) -> None:
    with path.open("wb") as file:
        for part in range(parts):
            file.seek(part * 2 * MIB // 4)
            file.write(b"%d" % part * 4096)
        file.truncate(length)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("parts", [0, 1, 3, 60])
def test_as_gnu_tar_writes_them(form: str, parts: int, tmp_path: Path) -> None:
    require_real(shutil.which("tar") is not None, "GNU tar is not installed")
    (tmp_path / "root").mkdir()
    holes(tmp_path / "sparse", parts, 40 * MIB)
    (tmp_path / "after").write_text("the next entry")
    command = ["tar", "-cSf", "a.tar", *FORMATS[form], "sparse", "after"]
    subprocess.run(command, cwd=tmp_path, check=True)
    archive = (tmp_path / "a.tar").read_bytes()
    assert len(archive) < 10 * MIB
    for pieces in ([archive], t.split(archive, [700, 1, 5000])):
        _, sink = apply_into(tmp_path / "root", pieces)
    made = tmp_path / "root/sparse"
    assert made.read_bytes() == (tmp_path / "sparse").read_bytes()
    assert made.stat().st_blocks * 512 < 10 * MIB
    assert sink.held().bytes < 10 * MIB
    assert (tmp_path / "root/after").read_text() == "the next entry"


def pax_1_0(body: bytes, realsize: int = 4) -> bytes:
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "name",
        "GNU.sparse.realsize": str(realsize),
    }
    return t.archive(t.file("GNUSparseFile.0/name", body, pax=records))


def pax_0_1(numbers: str, data: bytes = b"data", length: str = "4") -> bytes:
    records = {"GNU.sparse.map": numbers, "GNU.sparse.size": length}
    return t.archive(t.file("name", data, pax=records))


def scattered(name: str) -> bytes:
    """An entry of a thousand bytes, a block on disk for each."""
    numbers = ",".join(f"{n * 4096 + 4095},1" for n in range(1000))
    records = {"GNU.sparse.map": numbers, "GNU.sparse.size": "4096000"}
    return t.file(name, bytes(1000), pax=records)


def test_by_hand(tmp_path: Path) -> None:
    apply_into(tmp_path, pax_1_0(t.padded(b"1\n2\n4\n") + b"data", 10))
    assert (tmp_path / "name").read_bytes() == b"\0\0data\0\0\0\0"


@pytest.mark.parametrize(
    ("archive", "blocks"),
    [
        (t.archive(scattered("name")), 1000),
        (pax_0_1("0,100,200,4000,9000,4", bytes(4104), "9999"), 3),
        (pax_0_1("", b"", str(1 << 30)), 0),
    ],
)
def test_usage_is_what_is_on_disk(archive: bytes, blocks: int, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    _, sink = apply_into(one, archive)
    assert sink.held().bytes == (1 + blocks) * 4096
    _, sink = apply_into(two, archive[:-1024] + t.archive(t.file("name", b"dense")))
    assert (sink.held().bytes, sink.held().inodes) == (2 * 4096, 2)


@pytest.mark.parametrize(
    "archive",
    [
        pax_0_1("0"),
        pax_0_1("0,-4"),
        pax_0_1("0,2,1,2"),
        pax_0_1("0,5"),
        pax_0_1("1,4"),
        pax_0_1("0,3"),
        pax_0_1("0,4,"),
        pax_0_1("0,4", length="-1"),
        pax_1_0(t.padded(b"x\n") + b"data"),
        pax_1_0(t.padded(b"1\n0\n") + b"data"),
        pax_1_0(t.padded(b"9999999\n0\n4\n") + b"data"),
        pax_1_0(bytes(512) + b"data"),
        pax_1_0(b"1\n0"),
        t.archive(t.file("a", pax={"GNU.sparse.major": "2", "GNU.sparse.size": "1"})),
        t.archive(t.entry("a", b"S", b"data")),
    ],
)
def test_malformed_maps(archive: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptContentError, match="offset"):
        apply_into(tmp_path, archive)


@pytest.mark.parametrize(
    ("archive", "limit"),
    [
        (pax_0_1("0,4", length=str(1 << 62)), "layer_bytes"),
        (pax_1_0(b"9999999\n" + b"1\n" * 4096), "pax_header_bytes"),
    ],
)
def test_limits(archive: bytes, limit: str, tmp_path: Path) -> None:
    with pytest.raises(LimitExceededError, match=limit):
        apply_into(tmp_path, archive, limits=Limits(pax_header_bytes=4096))


def test_scattered_bytes_are_a_bomb(tmp_path: Path) -> None:
    many = t.archive(*(scattered(f"{n}") for n in range(4)))
    with pytest.raises(LimitExceededError, match="on disk"):
        apply_into(tmp_path, many, limits=Limits(layer_bytes=16_000_000))
