"""The program of one layer's worker: confined, it applies one layer, answers, and ends.

It runs no native decoder: of an encoded layer it gets what another process made of the bytes, and
what it hashes is what it writes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

from cri_imaged.errors import ImagedError, WorkerDiedError
from cri_imaged.layers.apply import apply_layer
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.layers.sinks.table import Rights, open_sink
from cri_imaged.layers.worker import confine, protocol, ring, seccomp
from cri_imaged.layers.worker.arriving import AbandonedError, arriving
from cri_imaged.layers.worker.headroom import paced
from cri_imaged.layers.worker.heart import STOPPED_SECONDS, Heart
from cri_imaged.layers.worker.ring import BrokenRingError, DecoderFailedError, Flow, Ring
from cri_imaged.limits import Limits
from cri_imaged.oci.media_types import ENCRYPTED

_SMALL_BYTES = 128 << 10
"""Blobs up to this size are hashed by the way."""
_SPARE_BYTES = 1 << 20
"""Given back where memory runs out: to say so takes some, and the stack may have to grow."""


class Descriptors(NamedTuple):
    """What a `Start` comes with."""

    source: int
    watermarks: int
    target: int
    result: int
    report: int
    secret: int


def run(
    start: protocol.Start, given: Descriptors, decoded: Ring | None, *, privileged: bool
) -> None:
    """Apply the layer that `start` tells of, and leave the answer in the result pipe. `decoded` has
    its uncompressed stream, where a decoder of its own makes that; `privileged`: see `confine`."""
    try:
        confine.confine(given.target, start.limits, chroot=privileged)
        spare = mmap.mmap(-1, _SPARE_BYTES, flags=mmap.MAP_PRIVATE)
        flow = Flow()

        def beat() -> None:
            os.write(given.result, protocol.IDLE_BEAT if flow.has_stopped() else protocol.BEAT)

        with Heart(beat):
            try:
                answer = _apply(start, given, decoded, flow, privileged=privileged)
            except BaseException as error:
                spare.close()
                if isinstance(error, AbandonedError):
                    return
                answer = _failure(error, start.limits)
    except Exception as error:  # whatever it is, the daemon must hear of it
        answer = protocol.failure(error, start.limits)
    _write(given.result, protocol.encode(answer))


def _failure(error: BaseException, limits: Limits) -> protocol.Failure:
    if isinstance(error, DecoderFailedError):
        return protocol.decode_failure(error.failure)
    if isinstance(error, BrokenRingError):
        error = WorkerDiedError("its decoder ended or was stopped in mid-layer")
    return protocol.failure(error, limits)


def _apply(
    start: protocol.Start,
    given: Descriptors,
    decoded: Ring | None,
    flow: Flow,
    *,
    privileged: bool,
) -> protocol.Outcome:
    rights = Rights(privileged, start.clear)
    sink = open_sink(start.target, given.target, rights, start.limits)
    stream = paced(_stream(start, given, decoded, flow), given.target, start.reserve)
    hash_aside = start.encoded.size > _SMALL_BYTES
    try:
        result = apply_layer(stream, start.algorithm, sink, start.limits, hash_aside=hash_aside)
    except ImagedError:
        if start.encoded.media_type.endswith(ENCRYPTED):
            for _ in stream:  # at its end the decoder says whether it is what was encrypted
                pass
        raise
    return protocol.success(result, sink.held(), sink.skipped(), given.report)


def _stream(
    start: protocol.Start, given: Descriptors, decoded: Ring | None, flow: Flow
) -> Iterator[bytes]:
    seccomp.end_threads()  # all there are run by now that somebody asks for bytes
    if decoded is not None:
        yield from ring.drain(decoded, STOPPED_SECONDS, flow)
    else:
        decoder = decoder_of(start.encoded.media_type)
        chunks = arriving(given.source, given.watermarks)
        yield from decoder.decode(chunks, start.encoded, start.limits)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
