"""Streams of members one after another (gzip's members, zstd's frames), with every rule on their
number, their trailers, and how far they expand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits

CHUNK = 256 << 10
"""Uncompressed bytes made at a time, at most: what a core's own cache holds."""
_SMALL = 64 << 10
_FIRST_WINDOW = 16 << 10
_LARGEST_WINDOW = 256 << 10


class MemberDecoder(Protocol):
    """The interface of the standard library's decompressors, for one member or frame."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether `decompress` gives nothing more without more data."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was given of the bytes behind the member."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Go on with `data`; at most `max_length` bytes."""
        ...


class Codec(NamedTuple):
    """A format of members."""

    name: str
    begin: Callable[[Limits], MemberDecoder]
    """A decoder for the next member."""
    errors: tuple[type[BaseException], ...]
    """What a decoder raises over damage."""
    exceeded: Callable[[BaseException, Limits], LimitExceededError | None] = lambda *_: None
    """What such an error stands for; None where it is damage."""


def decode_members(
    source: Iterable[bytes], codec: Codec, limits: Limits, size: int = 0
) -> Iterator[bytes]:
    """What the members of `source` hold, in chunks of about `CHUNK` bytes at most. Where `size`,
    the bytes of all of it, is known, they may expand as that allows: what begins with zeros, as
    disks do, is no bomb.

    Raises:
        CorruptContentError: damaged or truncated, or garbage between or after members.
        LimitExceededError: ratio, number of members, memory.
    """
    return _gathered(_members(_Input(iter(source)), codec, limits, size))


class _Input:
    """Compressed bytes, in windows that are small where a member begins: what a tiny one leaves of
    its window is copied."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._window = _FIRST_WINDOW
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
        window = self._chunk[self._at : self._at + self._window]
        self._window = min(2 * self._window, _LARGEST_WINDOW)
        self._at += len(window)
        self.taken += len(window)
        return window

    def give_back(self, count: int) -> None:
        """A member has ended, and left `count` bytes of the last window."""
        self._at -= count
        self.taken -= count
        self._window = _FIRST_WINDOW


def _members(source: _Input, codec: Codec, limits: Limits, size: int) -> Iterator[bytes | None]:
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
                f"layer: {codec.name} stream has more than {limits.layer_entries} members "
                "(layer_entries)"
            )
        decompressor = codec.begin(limits)
        while True:
            try:
                output = decompressor.decompress(window, CHUNK)
            except codec.errors as error:
                raise _damaged(codec, members, source.taken, error, limits) from None
            if output:
                produced += len(output)
                if produced > free and produced > ratio * max(source.taken, size):
                    raise LimitExceededError(
                        f"layer expands {max(source.taken, size)} bytes to {produced} and more, "
                        f"over {ratio} times (expansion_ratio)"
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
                        f"layer: {codec.name} stream is truncated after {source.taken} bytes"
                    )
        source.give_back(len(decompressor.unused_data))


def _damaged(
    codec: Codec, member: int, received: int, error: BaseException, limits: Limits
) -> CorruptContentError | LimitExceededError:
    if (exceeded := codec.exceeded(error, limits)) is not None:
        return exceeded.within("layer")
    return CorruptContentError(
        f"layer: {codec.name} stream is damaged within the first {received} bytes, "
        f"member {member}: {str(error)[:200]}"
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
