"""What daemon, zygote and worker say to one another, in msgpack.

Daemon and zygote share a SOCK_SEQPACKET pair: one message a packet, a `Start` with the
descriptors source, watermarks, target, result, report and secret, in this order. The secret is a
pipe with what decrypts the layer, which its decoder alone gets; empty where nothing is encrypted.
A `Start` is passed on to the layer's decoder where that serves several layers, with source,
watermarks and its ends of the ring. A worker answers once, by closing its result pipe after one
`Outcome`, with a `BEAT` every second before it; its answer and its report are a stranger's and are
checked as such.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
from typing import Annotated, TypeAlias

import msgspec

from cri_imaged import errors
from cri_imaged.errors import ImagedError, LimitExceededError
from cri_imaged.layers.apply import Result
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.worker import report
from cri_imaged.layers.worker.confine import memory_limit
from cri_imaged.limits import Limits
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.layer_path import check_name, components
from cri_imaged.ports import Applied, Device, LayerSecret, Skipped, Target, Usage

PACKET_BYTES = 16 << 10
DESCRIPTORS = 6
DECODERS_DESCRIPTORS = 5
DECODED = b"\1"
"""A decoder to the zygote: all of its layer is decoded, and it waits for another."""
ANSWER_BYTES = 8 << 10
"""The most that an honest answer takes."""
_MESSAGE_BYTES = 4 << 10
_SECRET_BYTES = 4 << 10
_WATERMARK = struct.Struct("<Q")
WATERMARK_BYTES = _WATERMARK.size
BEAT, IDLE_BEAT = b"\0", b"\1"
"""The latter while all that the worker does is to wait for its decoder. No `Outcome` begins with
either."""

_OWNERS = range((1 << 32) - 1)
_TIMES = range(-(1 << 63), 1 << 63)
_MAJORS, _MINORS = range(1 << 12), range(1 << 20)

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Start(msgspec.Struct, tag=True, frozen=True):
    """Daemon to zygote: fork a worker."""

    worker: int
    encoded: Encoded
    algorithm: str
    target: Target
    reserve: int
    """Bytes of the disk that stay free."""
    origin: str
    """Layers of the same one may be decoded by the same process, one after another. Empty, or in
    an attempt that is not the first: this layer's decodes nothing else."""
    clear: bool
    """Empty the target first: an attempt before this one was in it."""
    limits: Limits


class Kill(msgspec.Struct, tag=True, frozen=True):
    """Daemon to zygote: kill that worker, if it still runs."""

    worker: int


class Ended(msgspec.Struct, tag=True, frozen=True):
    """Zygote to daemon: that worker was waited for."""

    worker: int
    status: int
    """As `os.waitstatus_to_exitcode` gives it: negative for a signal."""
    decoder_was_used: bool = False
    """Whether its decoder had decoded other layers before."""


class Heard(msgspec.Struct, tag=True, frozen=True):
    """Zygote to daemon: a `Kill` was obeyed. So it runs, though a worker may take long to end."""


class Confined(msgspec.Struct, tag=True, frozen=True):
    """Zygote to daemon, at its start: what confines its workers."""

    means: tuple[str, ...]
    lacking: tuple[str, ...]


class Success(msgspec.Struct, tag=True, frozen=True):
    """A worker's answer: the layer is applied. Fields as in `Applied`."""

    diff_id: str
    size: _Count
    entries: _Count
    disk_bytes: _Count
    inodes: _Count
    skipped: tuple[_Count, _Count, _Count, _Count]
    report: tuple[tuple[_Count, _Count], ...]
    """Of each field of `Sealable`, how many records and bytes the report file has."""
    unended: bytes


class Failure(msgspec.Struct, tag=True, frozen=True):
    """A worker's answer: it is not. `error` names a class of `errors`, or is an errno's number,
    or is empty for a defect."""

    error: str
    message: str


Request: TypeAlias = Start | Kill
Report: TypeAlias = Ended | Heard | Confined
Outcome: TypeAlias = Success | Failure

encode = msgspec.msgpack.Encoder(enc_hook=os.fspath).encode
decode_request = msgspec.msgpack.Decoder(Request, dec_hook=lambda kind, value: kind(value)).decode
decode_start = msgspec.msgpack.Decoder(Start, dec_hook=lambda kind, value: kind(value)).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_failure = msgspec.msgpack.Decoder(Failure).decode
_decode_secret = msgspec.msgpack.Decoder(LayerSecret).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_ERRORS = {
    error.__name__: error
    for error in (
        errors.CorruptContentError,
        errors.UnsupportedContentError,
        errors.LimitExceededError,
        errors.WindowExceededError,
        errors.NoSpaceError,
        errors.WorkerDiedError,
    )
}


def secret_pipe(secret: LayerSecret | None) -> int:
    """The end of a pipe that a secret can be read from, once."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(writer, "wb", buffering=0) as pipe:
        if secret is not None:
            pipe.write(encode(secret))  # much less than a pipe holds
    return reader


def read_secret(pipe: int) -> LayerSecret | None:
    """What was put into a `secret_pipe`."""
    data = os.read(pipe, _SECRET_BYTES)
    return _decode_secret(data) if data else None


def watermark(size: int, *, complete: bool) -> bytes:
    """Say that `size` bytes are there, and whether these are all."""
    return _WATERMARK.pack(size << 1 | complete)


def parse_watermark(message: bytes) -> tuple[int, bool]:
    """(size, complete) of a `watermark`."""
    (value,) = _WATERMARK.unpack(message)
    return value >> 1, bool(value & 1)


def failure(error: BaseException, limits: Limits, characters: int = _MESSAGE_BYTES) -> Failure:
    """What a worker says of an error, in so many characters."""
    name = ""
    if isinstance(error, MemoryError):
        error = LimitExceededError(_too_much_memory(limits))
    if isinstance(error, OSError) and error.errno is not None:
        name = str(error.errno)
    elif isinstance(error, ImagedError):
        name = type(error).__name__
    return Failure(name, str(error)[:characters])


def _too_much_memory(limits: Limits) -> str:
    limit = memory_limit(limits)
    name = "worker_memory_bytes" if limit == limits.worker_memory_bytes else "ulimit -v"
    return f"layer needs more than {limit} bytes of memory ({name})"


def success(result: Result, usage: Usage, skipped: Skipped, report_fd: int) -> Success:
    """What a worker says of an applied layer; what it leaves to the seal goes into that file."""
    return Success(
        result.diff_id,
        result.size,
        result.entries,
        usage.bytes,
        usage.inodes,
        (skipped.owners, skipped.devices, skipped.xattrs, skipped.times),
        report.write(report_fd, result.sealable),
        result.unended,
    )


def read_answer(answer: bytes, report_fd: int, limits: Limits) -> Applied | Exception | None:
    """A worker's answer as a result or an exception to raise; None if it is no answer. `report_fd`
    stays the caller's."""
    try:
        outcome = _decode_outcome(answer)
        if isinstance(outcome, Failure):
            return _exception(outcome)
        return _applied(outcome, report_fd, limits)
    except (msgspec.MsgspecError, ImagedError, ValueError):
        return None


def _exception(outcome: Failure) -> Exception:
    message = outcome.message[:_MESSAGE_BYTES]
    if outcome.error.isdecimal():
        return OSError(int(outcome.error), message)
    known = _ERRORS.get(outcome.error)
    return known(message) if known else RuntimeError(f"layer worker: {message}")


def _applied(outcome: Success, report_fd: int, limits: Limits) -> Applied:
    extents = [report.Extent(*extent) for extent in outcome.report]
    if sum(extent.size for extent in extents) > limits.seal_bytes:
        raise ValueError("a report larger than any honest one")
    left = report.read(os.dup(report_fd), extents)
    for path in left.whiteouts:
        check_name(path)
    for path in itertools.chain(left.opaques, left.implicit):
        components(path)
    for name, target in left.links:
        check_name(name)
        components(target)
    for late in left.late:
        check_name(late.path)
    for device in left.devices:
        _check_device(device)
    return Applied(
        diff_id=Digest.parse(outcome.diff_id),
        size=outcome.size,
        entries=outcome.entries,
        usage=Usage(outcome.disk_bytes, outcome.inodes),
        skipped=Skipped(*outcome.skipped),
        unended=outcome.unended,
        **left._asdict(),
    )


def _check_device(device: Device) -> None:
    for name in device.names:
        check_name(name)
    fields = (device.names, device.uid in _OWNERS, device.gid in _OWNERS, device.mtime in _TIMES)
    number = device.major in _MAJORS and device.minor in _MINORS and device.major | device.minor
    if not (all(fields) and number and stat.S_IFMT(device.mode) in (stat.S_IFCHR, stat.S_IFBLK)):
        raise ValueError("not a device node")
