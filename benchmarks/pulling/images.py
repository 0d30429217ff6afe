"""The images that are pulled: of the shape of real ones, and the same each time."""

from __future__ import annotations

import functools
import io
import random
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence

from isal import igzip
from tests.support.images import LAYER, Image, Layer, image, sha256

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
_TIME = 1_600_000_000
_STOCK = 16 * MIB


@functools.cache
def _stock() -> memoryview:
    """Bytes to cut files from: about as compressible as programs and scripts are (3 to 1)."""
    source = random.Random(0)
    words = [source.randbytes(source.randrange(4, 18)) for _ in range(2000)]
    text = b" ".join(source.choices(words, k=_STOCK // 10))
    return memoryview(text[:_STOCK] * 2)


def _cut(source: random.Random, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        at = source.randrange(_STOCK)
        out += _stock()[at : at + min(size - len(out), _STOCK)]
    return bytes(out)


def tree(seed: int, top: str, entries: int, size: int, *, links: float = 0.02) -> bytes:
    """An archive of about so many entries and bytes of files below `top`: directories of a dozen
    files, few of which have most of the bytes, and some symlinks."""
    source = random.Random(seed)
    files = entries * 12 // 13
    weights = [min(source.lognormvariate(0, 1.6), 150) for _ in range(files)]
    scale = size / sum(weights)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number, weight in enumerate(weights):
            folder = f"{top}/p{number // 288}/d{number // 12}"
            if number % 12 == 0:
                _add(archive, folder, tarfile.DIRTYPE)
            name = f"{folder}/file{number}"
            if source.random() < links:
                _add(archive, name, tarfile.SYMTYPE, target=f"file{number + 1}")
            else:
                _add(archive, name, tarfile.REGTYPE, _cut(source, int(weight * scale)))
    return buffer.getvalue()


def noise(seed: int, top: str, size: int) -> bytes:
    """An archive of a few files that nothing compresses."""
    source = random.Random(seed)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, top, tarfile.DIRTYPE)
        for number in range(12):
            _add(archive, f"{top}/part{number}", tarfile.REGTYPE, source.randbytes(size // 12))
    return buffer.getvalue()


def images(chosen: Sequence[str], scale: float) -> Iterator[tuple[str, Image]]:
    """The chosen of `NAMES`, each with its name."""
    app: list[bytes] = []
    for name in chosen:
        if name.startswith("app"):
            app = app or [
                tree(1, "usr", int(9_000 * scale), int(250 * scale) * MIB, links=0.1),
                tree(2, "opt/venv/lib", int(20_000 * scale), int(320 * scale) * MIB),
                tree(3, "srv/node_modules", int(27_000 * scale), int(275 * scale) * MIB),
            ]
            pack = _zstd if name == "app-zstd" else _gzip
            yield name, image(*map(pack, app))
        elif name == "many":
            tars = (
                tree(n, f"srv/l{n}", int(820 * scale), int(6 * scale * MIB)) for n in range(10, 40)
            )
            yield name, image(*map(_gzip, tars))
        elif name == "big":
            yield name, image(_plain(noise(4, "opt/model", int(600 * scale) * MIB)))
        else:
            tar = tree(5, "srv", 2, 1000)
            yield name, image(_gzip(tar))


def crowd(scale: float) -> Iterator[tuple[str, Image]]:
    """Ten images that share nothing, of three gzip layers each."""
    for number in range(10):
        tars = (
            tree(100 + 3 * number + n, f"srv/l{n}", int(1500 * scale), int(20 * scale * MIB))
            for n in range(3)
        )
        yield f"crowd{number}", image(*map(_gzip, tars))


NAMES: dict[str, str] = {
    "app": "system, pip and npm trees: 3 gzip layers, 845 MiB, 56,000 entries",
    "app-zstd": "the same as zstd",
    "many": "30 gzip layers, 24,600 entries, 180 MiB",
    "big": "one plain layer, 600 MiB that nothing compresses",
    "tiny": "one layer with one small file",
}


def _add(
    archive: tarfile.TarFile, name: str, kind: bytes, data: bytes = b"", *, target: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mtime = kind, len(data), target, _TIME
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    archive.addfile(info, io.BytesIO(data))


def _layer(tar: bytes, pack: Callable[[bytes], bytes], suffix: str) -> Layer:
    return Layer(pack(tar), LAYER + suffix, sha256(tar))


def _gzip(tar: bytes) -> Layer:
    return _layer(tar, igzip.compress, "+gzip")


def _zstd(tar: bytes) -> Layer:
    return _layer(tar, zstd.compress, "+zstd")


def _plain(tar: bytes) -> Layer:
    return _layer(tar, bytes, "")
