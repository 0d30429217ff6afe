"""A tar as it comes, in one pass: entries one after another, never more of one than a piece.

ustar, PAX and GNU long names, as docker, podman, skopeo and tar write them. Paths are names to look
up, and never become files of ours.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from cri_imaged.errors import CorruptContentError, LimitExceededError, UnsupportedContentError
from cri_imaged.limits import ARCHIVE_ENTRIES, ARCHIVE_NAME_BYTES, ARCHIVE_TAIL_BYTES, Limits

_BLOCK = tarfile.BLOCKSIZE
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PASSED_OVER = (tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_KEYS = (b"path", b"linkpath", b"size")
_PAX, _PAX_GLOBAL = tarfile.XHDTYPE, tarfile.XGLTYPE
_PACKERS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"]\0\0": "lzma",
    b"7z\xbc\xaf": "7z",
    b"PK\3\4": "zip",
}
"""By how their files begin, which no name in a tar does."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a link."""

    name: str
    """Relative and normalised: `blobs/sha256/…`."""
    size: int
    target: str = ""
    """Of a link: the name of what it stands for. Empty for a file."""


class TarReader:
    """Reads one archive. After each entry its `body` is read, or passed over."""

    def __init__(self, chunks: AsyncIterator[bytes], limits: Limits) -> None:
        self._chunks = chunks
        self._limits = limits
        self._buffer = memoryview(b"")
        self._left = 0
        """Of the present entry's body, with what fills its last block."""
        self._body = 0

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """The archive's files and links, in order, up to its end marker; then nothing may follow.

        Raises:
            CorruptContentError: malformed, or cut off.
            UnsupportedContentError, LimitExceededError
        """
        long: dict[str, str] = {}
        number = names = 0
        while (header := await self._header()) is not None:
            number += 1
            if number > ARCHIVE_ENTRIES:
                raise LimitExceededError(f"archive: more than {ARCHIVE_ENTRIES} entries")
            self._open(header.size)
            if header.type in (_PAX, _LONG_NAME, _LONG_LINK):
                long.update(_extension(header.type, await self._small(header.size)))
                continue
            name = _normal(long.get("path", header.name))
            target = long.get("linkpath", header.linkname)
            if header.type in _FILES:
                self._open(_number(long["size"]) if "size" in long else header.size)
            elif header.type != _PAX_GLOBAL:
                self._open(0)  # whatever it claims: links, directories and devices have no bytes
            long = {}
            names += len(name) + len(target)
            if names > ARCHIVE_NAME_BYTES:
                raise LimitExceededError(f"archive: names of over {ARCHIVE_NAME_BYTES} bytes")
            if header.type in _FILES:
                yield Entry(name, self._body)
            elif header.type == tarfile.LNKTYPE:
                yield Entry(name, 0, _normal(target))
            elif header.type == tarfile.SYMTYPE:
                yield Entry(name, 0, _normal(posixpath.join(posixpath.dirname(name), target)))
            elif header.type not in (*_PASSED_OVER, _PAX_GLOBAL):
                raise UnsupportedContentError(
                    f"archive: entry {name[:200]!r} has the type {header.type!r}"
                )
            await self._pass_over()
        await self._end()

    async def body(self) -> AsyncIterator[bytes]:
        """The present file's bytes, in pieces."""
        while self._body:
            piece = await self._some(self._body)
            self._body -= len(piece)
            self._left -= len(piece)
            yield piece

    def _open(self, size: int) -> None:
        if size < 0:
            raise CorruptContentError("archive: an entry has a negative size")
        self._body = size
        self._left = -(-size // _BLOCK) * _BLOCK

    async def _header(self) -> tarfile.TarInfo | None:
        """The next entry's header; None at the end marker."""
        block = await self._exactly(_BLOCK)
        if not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            for magic, packer in _PACKERS.items():
                if block.startswith(magic):
                    raise UnsupportedContentError(
                        f"archive: it is packed by {packer}: unpack it first"
                    ) from None
            raise CorruptContentError(f"archive: this is no tar: {error}") from None

    async def _small(self, size: int) -> bytes:
        if size > self._limits.pax_header_bytes:
            raise LimitExceededError(
                f"archive: an extended header of {size} bytes, "
                f"limit {self._limits.pax_header_bytes} (pax_header_bytes)"
            )
        data = b"".join([piece async for piece in self.body()])
        await self._pass_over()
        return data

    async def _pass_over(self) -> None:
        while self._left:
            self._left -= len(await self._some(self._left))

    async def _end(self) -> None:
        """Until the sender has ended: what went wrong there shows only then."""
        tail = len(self._buffer)
        async for chunk in self._chunks:
            tail += len(chunk)
            if tail > ARCHIVE_TAIL_BYTES:
                raise LimitExceededError(
                    f"archive: more than {ARCHIVE_TAIL_BYTES} bytes follow its end"
                )

    async def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            pieces.append(await self._some(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    async def _some(self, most: int) -> bytes:
        while not self._buffer:
            try:
                self._buffer = memoryview(await anext(self._chunks))
            except StopAsyncIteration:
                raise CorruptContentError("archive: it is cut off") from None
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return bytes(piece)


def _normal(path: str) -> str:
    return posixpath.normpath(path.lstrip("/"))


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """What an extended header says of the entry that follows it."""
    if kind == _PAX:
        return dict(_records(data))
    text = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    return {"path" if kind == _LONG_NAME else "linkpath": text}


def _records(data: bytes) -> list[tuple[str, str]]:
    """PAX records, `LENGTH KEY=VALUE\\n` each (POSIX.1-2001, pax, "Extended Header")."""
    found = []
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        end = at + _number(length.decode("ascii", "replace"))
        record = data[at + len(length) + len(space) : end]
        key, equals, value = record.partition(b"=")
        if not (space and equals and record.endswith(b"\n")) or end > len(data):
            raise CorruptContentError("archive: a malformed PAX header")
        if key in _KEYS:
            found.append((key.decode(), value[:-1].decode("utf-8", "surrogateescape")))
        at = end
    return found


def _number(text: str) -> int:
    text = text.removeprefix("+")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise CorruptContentError(f"archive: {text[:40]!r} is no number")
    return int(text)
