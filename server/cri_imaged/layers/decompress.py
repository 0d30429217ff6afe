"""Decompression of a layer's bytes, with every rule on members, frames and trailers.

RFC 1952 (gzip; several members one after another), RFC 8878 (zstd; frames and skippable frames).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from isal import igzip_lib

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 1 << 20
"""Uncompressed bytes made at a time, at most."""
_SMALL = 64 << 10
_WINDOW = 16 << 10
_GZIP_ERROR: Any = igzip_lib.IsalError  # an exception class; its type stub says otherwise
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SNIFFED = media_types.LAYERS - {media_types.OCI_LAYER, media_types.OCI_FOREIGN_LAYER}
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a first byte 0x50 to 0x5f


class _Decompressor(Protocol):
    """The interface of the standard library's decompressors, for one member or frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def decompress(source: Iterable[bytes], media_type: str, limits: Limits) -> Iterator[bytes]:
    """The uncompressed stream of a layer, in non-empty chunks of some size (from compressed
    layers, about `CHUNK` bytes at most).

    As in containerd, the bytes' magic decides where the media type announces compression (or is
    Docker's plain layer, which older tools gave to compressed layers too); an OCI plain layer is
    taken as it is.

    Raises:
        CorruptContentError: damaged or truncated, or garbage between or after members.
        LimitExceededError: total bytes, ratio, number of members, zstd window.
    """
    chunks = iter(source)
    head = b""
    while len(head) < 4:
        more = next(chunks, b"")
        if not more:
            break
        head += more
    if media_type in _SNIFFED and head.startswith(_GZIP_MAGIC):
        stream = _gathered(_members(_Input(_joined(head, chunks)), "gzip", limits))
    elif media_type in _SNIFFED and _is_zstd(head):
        stream = _gathered(_members(_Input(_joined(head, chunks)), "zstd", limits))
    elif not head and media_type not in media_types.PLAIN_LAYERS:
        raise CorruptContentError(f"layer of type {media_type} has no bytes at all")
    else:
        stream = _joined(head, chunks)
    total = 0
    for chunk in stream:
        total += len(chunk)
        if total > limits.layer_bytes:
            raise LimitExceededError(
                f"layer is larger than {limits.layer_bytes} bytes uncompressed (layer_bytes)"
            )
        yield chunk


class _Input:
    """Compressed bytes, in windows small enough that a tiny member's rest is cheap to copy."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self.taken = 0
        """Bytes given out and not given back."""

    @property
    def dry(self) -> bool:
        """Whether the next `take` waits for more."""
        return self._at == len(self._chunk)

    def take(self) -> bytes:
        """The next window; empty at the end."""
        if self.dry:
            self._chunk, self._at = next(self._chunks, b""), 0
        window = self._chunk[self._at : self._at + _WINDOW]
        self._at += len(window)
        self.taken += len(window)
        return window

    def give_back(self, count: int) -> None:
        """The last `count` bytes of the last window were not used."""
        self._at -= count
        self.taken -= count


def _members(source: _Input, codec: str, limits: Limits) -> Iterator[bytes | None]:
    """What the members hold; None before waiting for more of the source."""
    free, ratio = limits.expansion_free_bytes, limits.expansion_ratio
    produced = members = 0
    while True:
        if source.dry:
            yield None
        window = source.take()
        if not window:
            return
        members += 1
        if members > limits.layer_entries:
            raise LimitExceededError(
                f"layer: {codec} stream has more than {limits.layer_entries} members "
                "(layer_entries)"
            )
        decompressor = _open(codec, limits)
        while True:
            try:
                output = decompressor.decompress(window, CHUNK)
            except (_GZIP_ERROR, zstd.ZstdError, EOFError) as error:
                raise _damaged(codec, members, source.taken, error, limits) from None
            if output:
                produced += len(output)
                if produced > free and produced > ratio * source.taken:
                    raise LimitExceededError(
                        f"layer expands {source.taken} bytes to {produced} and more, over "
                        f"{ratio} times (expansion_ratio)"
                    )
                yield output
            if decompressor.eof:
                break
            window = b""
            if decompressor.needs_input:
                if source.dry:
                    yield None
                window = source.take()
                if not window:
                    raise CorruptContentError(
                        f"layer: {codec} stream is truncated after {source.taken} bytes"
                    )
        source.give_back(len(decompressor.unused_data))


def _open(codec: str, limits: Limits) -> _Decompressor:
    if codec == "gzip":
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    window = limits.zstd_window_bytes.bit_length() - 1
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})


def _damaged(
    codec: str, member: int, received: int, error: Exception, limits: Limits
) -> CorruptContentError | LimitExceededError:
    if "memory" in str(error):  # zstd's words for a window above the cap
        return LimitExceededError(
            f"layer: zstd window is larger than {limits.zstd_window_bytes} bytes "
            "(zstd_window_bytes)"
        )
    return CorruptContentError(
        f"layer: {codec} stream is damaged within the first {received} bytes, "
        f"member {member}: {str(error)[:200]}"
    )


def _is_zstd(head: bytes) -> bool:
    return head.startswith(_ZSTD_MAGIC) or (
        head[:1] in {bytes([first]) for first in range(0x50, 0x60)} and head[1:4] == _ZSTD_SKIPPABLE
    )


def _gathered(stream: Iterator[bytes | None]) -> Iterator[bytes]:
    """`stream`, whose small pieces (of tiny members) are put together, up to each None."""
    small: list[bytes] = []
    size = 0
    for piece in stream:
        if piece is not None:
            small.append(piece)
            size += len(piece)
            if size < _SMALL:
                continue
        if small:
            yield small[0] if len(small) == 1 else b"".join(small)
            small.clear()
            size = 0
    if small:
        yield b"".join(small)


def _joined(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest
