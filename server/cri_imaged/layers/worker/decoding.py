"""The program of a decoder: it reads sources, runs native code over a stranger's bytes, and can do
nothing but put what comes of them into rings.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.layers.worker import confine, protocol, ring, seccomp
from cri_imaged.layers.worker.arriving import AbandonedError, arriving
from cri_imaged.layers.worker.heart import Heart
from cri_imaged.layers.worker.program import Descriptors
from cri_imaged.layers.worker.ring import Ring
from cri_imaged.limits import Limits

_MESSAGE_CHARACTERS = 400
"""So that a failure fits into one write to a pipe."""


class _Pulse:
    """Signs of life, in the ring that is filled."""

    def __init__(self) -> None:
        self._using = _thread.allocate_lock()
        self._fd: int | None = None

    @contextmanager
    def into(self, fd: int) -> Iterator[None]:
        """Beat there while the context lasts."""
        self._fd = fd
        try:
            yield
        finally:
            with self._using:
                self._fd = None

    def beat(self) -> None:
        """For a `Heart`."""
        with self._using, contextlib.suppress(BrokenPipeError):
            if self._fd is not None:
                os.write(self._fd, ring.ALIVE)


def run(start: protocol.Start, given: Descriptors, into: Ring) -> None:
    """Decode the layer that `start` tells of into the ring, and nothing else."""
    decoder = decoder_of(start.encoded.media_type)
    if decoder.prepare is not None:
        with confine.imports():
            decoder.prepare()
    encoded = msgspec.structs.replace(start.encoded, secret=protocol.read_secret(given.secret))
    with _confined(start.limits) as pulse:
        stream = _stream(given.source, given.watermarks, encoded, start.limits)
        _decode(stream, into, start.limits, pulse)


def serve(control: socket.socket, limits: Limits) -> None:
    """Decode one layer after another, as the zygote gives them, until it hangs up or one fails."""

    def decoded(stream: Iterator[bytes]) -> Iterator[bytes]:
        yield from stream
        # Before the writer hears of the end: when it has ended, this can be known.
        os.write(control.fileno(), protocol.DECODED)

    with _confined(limits) as pulse:
        while True:
            packet, descriptors, _, _ = socket.recv_fds(
                control, protocol.PACKET_BYTES, protocol.DECODERS_DESCRIPTORS
            )
            if not packet:
                return
            start = protocol.decode_start(packet)
            source, watermarks, *ends = descriptors
            stream = _stream(source, watermarks, start.encoded, start.limits)
            if not _decode(decoded(stream), Ring.of_decoder(*ends), start.limits, pulse):
                return
            for fd in descriptors:
                os.close(fd)


@contextmanager
def _confined(limits: Limits) -> Iterator[_Pulse]:
    confine.confine_decoder(limits)
    pulse = _Pulse()
    with Heart(pulse.beat):
        seccomp.end_threads()
        yield pulse


def _stream(source: int, watermarks: int, encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    decoder = decoder_of(encoded.media_type)
    return decoder.decode(arriving(source, watermarks), encoded, limits)


def _decode(stream: Iterator[bytes], into: Ring, limits: Limits, pulse: _Pulse) -> bool:
    """Whether all of it is in the ring; else that tells why not, where anybody reads it."""
    with contextlib.suppress(AbandonedError, BrokenPipeError), pulse.into(into.filled_out):
        try:
            ring.fill(into, stream)
            return True
        except (AbandonedError, BrokenPipeError):
            raise
        except BaseException as error:  # whatever it is, the daemon must hear of it
            failure = protocol.failure(error, limits, _MESSAGE_CHARACTERS)
            ring.fail(into, protocol.encode(failure))
    return False
