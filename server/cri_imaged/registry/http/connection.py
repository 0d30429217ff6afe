"""One byte stream to a peer: received when it is asked for, and never more at once than a buffer.

Nothing is read from the socket unless somebody waits for it, so a peer that sends without end fills
its own window and not our memory, and one call of the event loop handles one buffer at most. While
the reader is busy the kernel gathers what comes; so the busier it is, the larger are its chunks.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from cri_imaged.registry.http.errors import EndedError, MalformedError

_BUFFER = 512 << 10
"""Bytes received at once, at most; each stream holds as much while its reader is busy."""
_HELD = 32 << 20
"""Bytes that all streams hold in this way. The more they do, the less is received at once."""
_LEAST = 16 << 10
_PACE = 0.002
"""Seconds to let bytes gather between two small receptions of a long body, so that a link of some
hundred megabytes a second does not wake us for each few packets."""
_SMALL = 128 << 10
"""More than this at once is never waited for: the kernel widens its window by what is taken."""


class ReceiveBuffer:
    """The memory that all connections of one event loop receive into: the loop fills it and calls
    back before it does anything else."""

    def __init__(self) -> None:
        self._whole = memoryview(bytearray(_BUFFER))
        self.held = 0
        """Bytes that were received and that a reader is not done with."""

    @property
    def view(self) -> memoryview:
        """As much of it as may be received at once."""
        return self._whole[: max(_LEAST, min(_BUFFER, (_HELD - self.held) // 4))]


class Connection(asyncio.BufferedProtocol):
    """A connected stream, plain or with TLS."""

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        self._held = 0
        self._transport: asyncio.Transport | None = None
        self._arrived: deque[bytes] = deque()
        self._small_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._on_idle_event: Callable[[], None] | None = None

    # --- what the event loop calls ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._arrived.append(bytes(self._buffer.view[:nbytes]))
        self._held += nbytes
        self._buffer.held += nbytes
        self._small_at = time.monotonic() if nbytes < _SMALL else 0.0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._happened()

    def eof_received(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._ended = True
        self._happened()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._ended = True
        self._error = exc
        self._happened()

    def _happened(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._on_idle_event is not None:
            self._on_idle_event()

    # --- what the exchange calls ------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The IP address of the other end."""
        assert self._transport is not None
        return str(self._transport.get_extra_info("peername")[0])

    async def receive(self, *, paced: bool = False) -> bytes:
        """The next bytes, of any number; none at the stream's end. `paced`: many more are to come,
        so let them gather. The reader is done with what it got before. Raises `OSError` where the
        connection broke."""
        if not self._arrived:
            self._let_go()
        if paced and not self._arrived:
            early = self._small_at + _PACE - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
        while not self._arrived:
            if self._ended:
                if self._error is not None:
                    raise EndedError from self._error
                return b""
            self._resume()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._arrived.popleft()

    def unread(self, data: bytes) -> None:
        """Give back what was received and belongs to what comes next."""
        if data:
            self._arrived.appendleft(data)

    def take_arrived(self) -> bytes:
        """What is here already, without waiting."""
        data = b"".join(self._arrived)
        self._arrived.clear()
        return data

    def send(self, data: bytes) -> None:
        """Send small things: a request, a form."""
        if self._transport is None or self._transport.is_closing():
            raise EndedError
        self._transport.write(data)

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Go on with TLS, to a peer that must show a certificate for `name`. Raises `OSError`;
        `MalformedError` where the peer sent something before it: a proxy, or who is between us and
        it, which would pass for what the origin says under TLS."""
        if self._arrived:
            raise MalformedError("something came before TLS, which nobody asked for")
        assert self._transport is not None
        transport = await asyncio.get_running_loop().start_tls(
            self._transport, self, context, server_hostname=name
        )
        if transport is None:
            raise EndedError
        self.connection_made(transport)

    def watch_idle(self, on_event: Callable[[], None] | None) -> None:
        """Nothing is expected until the next request: call `on_event` when the peer sends or
        closes after all. None: something is expected again."""
        self._on_idle_event = on_event
        self._let_go()
        if on_event is not None:
            self._resume()

    @property
    def quiet(self) -> bool:
        """Whether it is open and nothing is here that nobody asked for."""
        closing = self._transport is None or self._transport.is_closing()
        return not (self._arrived or self._ended or closing)

    def close(self) -> None:
        """Close at once; what was not received yet is dropped."""
        self._arrived.clear()
        self._let_go()
        if self._transport is not None:
            self._transport.abort()

    def _let_go(self) -> None:
        self._buffer.held -= self._held
        self._held = 0

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
