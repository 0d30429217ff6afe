"""Decoders that go on to the next layer, as the zygote keeps them.

To fork one takes as long as to decode a small layer. So small layers of one origin (whose owner
could spoil his own images anyway) have one decoder after another; it is given one layer at a time.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence

from cri_imaged.layers.worker import protocol

_IDLE = 8
"""Decoders that wait for a layer: each takes some MiB."""
_IDLE_SECONDS = 5.0
_LAYERS = 100
"""That one decoder is given."""


class Decoder:
    """One that runs."""

    def __init__(self, origin: str, pid: int, control: socket.socket) -> None:
        """`control` is the zygote's end of a SOCK_SEQPACKET pair, which this closes."""
        self.origin = origin
        self.pid = pid
        self.layers = 0
        """That it was given."""
        self._control = control
        self._idle_since = 0.0

    def begin(self, start: protocol.Start, descriptors: Sequence[int]) -> None:
        """Have it decode a layer. Raises `OSError` where it has ended."""
        self.layers += 1
        self._control.setblocking(False)
        socket.send_fds(self._control, [protocol.encode(start)], list(descriptors))

    def is_done(self) -> bool:
        """Whether it has said that it waits for another layer."""
        try:
            return self._control.recv(1) == protocol.DECODED
        except OSError:
            return False

    def rest(self) -> None:
        """It is idle from now on."""
        self._idle_since = time.monotonic()

    def seconds_left(self) -> float:
        """For which it may stay idle."""
        return self._idle_since + _IDLE_SECONDS - time.monotonic()

    def close(self) -> None:
        """Hang up."""
        self._control.close()


class IdleDecoders:
    """Those that wait for a layer, the one that has waited longest first."""

    def __init__(self) -> None:
        self._idle: list[Decoder] = []

    def take(self, origin: str) -> Decoder | None:
        """One that has decoded layers of this origin alone."""
        for decoder in reversed(self._idle):
            if decoder.origin == origin:
                self._idle.remove(decoder)
                return decoder
        return None

    def keep(self, decoder: Decoder) -> None:
        """It may be taken again, for a while."""
        if decoder.layers >= _LAYERS:
            _kill(decoder)
            return
        decoder.rest()
        self._idle.append(decoder)
        if len(self._idle) > _IDLE:
            _kill(self._idle.pop(0))

    def expire(self) -> float | None:
        """End those that nobody took. Returns in how many seconds the next one's time is over."""
        while self._idle:
            left = self._idle[0].seconds_left()
            if left > 0:
                return left
            _kill(self._idle.pop(0))
        return None

    def forget(self, pid: int) -> None:
        """That process has ended."""
        for decoder in self._idle:
            if decoder.pid == pid:
                self._idle.remove(decoder)
                decoder.close()
                return

    def end(self, origin: str) -> None:
        """Kill those that have decoded layers of this origin."""
        while (decoder := self.take(origin)) is not None:
            _kill(decoder)

    def end_all(self) -> None:
        """Kill all."""
        while self._idle:
            _kill(self._idle.pop())


def _kill(decoder: Decoder) -> None:
    os.kill(decoder.pid, signal.SIGKILL)
    decoder.close()
