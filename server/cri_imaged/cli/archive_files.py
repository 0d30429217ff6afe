"""Files that archives of images are read from: a tar, a tar in gzip or zstd, or the directory of
an OCI image layout. The daemon is sent a plain tar: what is packed is unpacked here, with the
rights of who asks."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.unpacked import PIECE, DamagedError, unpacked

_DEPTH = 3
"""Of a layout's blobs. Links may lead round."""


def read_archive(name: str) -> Iterator[bytes]:
    """A tar's bytes, in pieces. `-` is standard input.

    Raises:
        Failure: it cannot be read, is cut off, or is damaged.
    """
    try:
        if name == "-":
            with open(0, "rb", closefd=False) as file:
                yield from unpacked(file)
        elif os.path.isdir(name):
            yield from _directory(Path(name))
        else:
            with open(name, "rb") as file:
                yield from unpacked(file)
    except (OSError, EOFError, DamagedError) as error:
        raise Failure(ExitCode.FAILED, f"{name}: {error}") from None


def _directory(top: Path) -> Iterator[bytes]:
    """The files below `top` as a tar."""
    for path in _files(top, _DEPTH):
        with path.open("rb") as file:
            info = tarfile.TarInfo(path.relative_to(top).as_posix())
            info.size = left = os.fstat(file.fileno()).st_size
            yield info.tobuf(tarfile.GNU_FORMAT)
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise EOFError(f"{path} became shorter meanwhile")
                left -= len(piece)
                yield piece
            yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Through links too: layouts may share their blobs, or be made of links to a cache's files."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif depth > 1 and path.is_dir():
            yield from _files(path, depth - 1)
