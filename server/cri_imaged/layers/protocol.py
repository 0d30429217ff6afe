"""What daemon, zygote and worker say to one another, in msgpack.

Daemon and zygote share a SOCK_SEQPACKET pair: one message a packet, a `Start` with the
descriptors source, watermarks, root and result, in this order. A worker answers once, by closing
its result pipe after one `Outcome`; its answer is a stranger's and is checked as such.
"""

from __future__ import annotations

import struct
from typing import Annotated, TypeAlias

import msgspec

from cri_imaged import errors
from cri_imaged.errors import ImagedError
from cri_imaged.layers.ledger import Seal
from cri_imaged.limits import Limits
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Applied, Skipped, Usage

PACKET_BYTES = 16 << 10
DESCRIPTORS = 4
_MESSAGE_BYTES = 4 << 10
_WATERMARK = struct.Struct("<Q")
WATERMARK_BYTES = _WATERMARK.size

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Start(msgspec.Struct, tag=True, frozen=True):
    """Daemon to zygote: fork a worker."""

    worker: int
    media_type: str
    algorithm: str
    limits: Limits
    clear: bool
    """Empty the directory first: an attempt before this one was in it."""


class Kill(msgspec.Struct, tag=True, frozen=True):
    """Daemon to zygote: kill that worker, if it still runs."""

    worker: int


class Ended(msgspec.Struct, tag=True, frozen=True):
    """Zygote to daemon: that worker was waited for."""

    worker: int
    status: int
    """As `os.waitstatus_to_exitcode` gives it: negative for a signal."""


class Success(msgspec.Struct, tag=True, frozen=True):
    """A worker's answer: the layer is applied. Fields as in `Applied`."""

    diff_id: str
    size: _Count
    entries: _Count
    disk_bytes: _Count
    inodes: _Count
    skipped: tuple[_Count, _Count, _Count, _Count]
    whiteouts: tuple[bytes, ...]
    opaques: tuple[bytes, ...]
    implicit: tuple[bytes, ...]
    links: tuple[tuple[bytes, bytes], ...]
    unended: bytes


class Failure(msgspec.Struct, tag=True, frozen=True):
    """A worker's answer: it is not. `error` names a class of `errors`, or is an errno's number,
    or is empty for a defect."""

    error: str
    message: str


Request: TypeAlias = Start | Kill
Outcome: TypeAlias = Success | Failure

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_ended = msgspec.msgpack.Decoder(Ended).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_ERRORS = {
    error.__name__: error
    for error in (
        errors.CorruptContentError,
        errors.UnsupportedContentError,
        errors.LimitExceededError,
        errors.NoSpaceError,
    )
}


def watermark(size: int, *, complete: bool) -> bytes:
    """Say that `size` bytes are there, and whether these are all."""
    return _WATERMARK.pack(size << 1 | complete)


def parse_watermark(message: bytes) -> tuple[int, bool]:
    """(size, complete) of a `watermark`."""
    (value,) = _WATERMARK.unpack(message)
    return value >> 1, bool(value & 1)


def failure(error: BaseException) -> Failure:
    """What a worker says of an error."""
    name = ""
    if isinstance(error, OSError) and error.errno is not None:
        name = str(error.errno)
    elif isinstance(error, ImagedError):
        name = type(error).__name__
    return Failure(name, str(error)[:_MESSAGE_BYTES])


def success(
    diff_id: str,
    size: int,
    entries: int,
    usage: Usage,
    skipped: Skipped,
    seal: Seal,
    unended: bytes,
) -> Success:
    """What a worker says of an applied layer."""
    counts = (skipped.owners, skipped.devices, skipped.xattrs, skipped.times)
    return Success(diff_id, size, entries, usage.bytes, usage.inodes, counts, *seal, unended)


def answer_bytes(limits: Limits) -> int:
    """The most that an honest answer takes."""
    return limits.seal_bytes + _MESSAGE_BYTES + (1 << 10)


def read_answer(answer: bytes) -> Applied | Exception | None:
    """A worker's answer as a result or an exception to raise; None if it is no answer."""
    try:
        outcome = _decode_outcome(answer)
        if isinstance(outcome, Failure):
            return _exception(outcome)
        return _applied(outcome)
    except (msgspec.MsgspecError, ImagedError, ValueError):
        return None


def _exception(outcome: Failure) -> Exception:
    message = outcome.message[:_MESSAGE_BYTES]
    if outcome.error.isdecimal():
        return OSError(int(outcome.error), message)
    known = _ERRORS.get(outcome.error)
    return known(message) if known else RuntimeError(f"layer worker: {message}")


def _applied(outcome: Success) -> Applied:
    for path in (*outcome.whiteouts, *(name for name, _ in outcome.links)):
        _check(path)
    for path in (*outcome.opaques, *outcome.implicit, *(target for _, target in outcome.links)):
        if path:
            _check(path)
    return Applied(
        diff_id=Digest.parse(outcome.diff_id),
        size=outcome.size,
        entries=outcome.entries,
        usage=Usage(outcome.disk_bytes, outcome.inodes),
        skipped=Skipped(*outcome.skipped),
        whiteouts=outcome.whiteouts,
        opaques=outcome.opaques,
        implicit=outcome.implicit,
        links=outcome.links,
        unended=outcome.unended,
    )


def _check(path: bytes) -> None:
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/")):
        raise ValueError("not a canonical path")
