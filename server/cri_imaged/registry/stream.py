"""A content's bytes from an offset to its end, whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from cri_imaged.errors import CorruptContentError
from cri_imaged.registry.blob import BlobRequest
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.response import Response
from cri_imaged.registry.patience import Patience, Watch

_PROGRESS_BYTES = 64 << 10
"""Delivered since the last failure, they make the budget of tries whole again."""
_TRAILING_SECONDS = 1.0
_FRUITLESS = 3
"""Answers to ranges, after which a host is asked for the whole: it may manage that."""


class ContentStream:
    """Implements `ports.ByteStream`; open it, iterate it once, close it.

    Where it is given an end, it asks for a range and stops there.
    """

    def __init__(
        self,
        request: BlobRequest,
        offset: int,
        patience: Patience,
        end: int | None = None,
    ) -> None:
        self._request = request
        self._descriptor = request.descriptor
        self._offset = offset
        self._end = request.descriptor.size if end is None else end
        self._tries = request.tries()
        self._watch = Watch(patience)
        self._sources: list[Host] = []
        self._body: Response | None = None
        self._skip = 0
        self._to_a_range = self._ranged = False
        self._asked_ranges = False
        """Whether any answer so far was to a range."""
        self._fruitless = 0
        """Answers to ranges, one after the other, that brought next to nothing."""
        self._opened_at = offset
        self._started = 0.0
        self._waited_since = 0.0
        """For the next bytes: neither while they came nor while the reader was busy with them."""
        self._unsettled = 0

    async def open(self) -> None:
        """Make the first request, so that what is wrong is known before the first byte.

        Raises:
            RegistryError, CorruptContentError
        """
        if self._offset < self._end:
            self._body = await self._tries.run(self._ask, self._request.url)

    @property
    def ranged(self) -> bool:
        """Whether the open host answered with the range that it was asked for."""
        return self._body is not None and self._ranged

    def extend(self) -> None:
        """Go on to the content's end after all."""
        self._end = self._descriptor.size

    def close(self) -> None:
        """Let go of the connection."""
        if self._body is not None:
            self._body.close()
            self._body = None

    def discredit(self) -> None:
        """See `ports.ByteStream.discredit`."""
        self._request.discredit(self._sources, of_ranges=self._asked_ranges)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._offset < self._end:
            if self._body is None:
                self._body = await self._tries.run(self._ask, self._request.url)
            chunk = await self._read(self._body)
            if chunk is None:
                continue
            if len(chunk) > self._end - self._offset:
                if self._end == self._descriptor.size:
                    raise self._too_long()
                chunk = chunk[: self._end - self._offset]
            self._offset += len(chunk)
            self._settle(self._body, len(chunk))
            self._request.account.answered(self._host.authority, len(chunk))
            yield chunk
            self._waited_since = time.monotonic()
            if self._offset < self._end and self._watch.too_slow():
                self._fail(
                    HostFailure(Kind.UNREACHABLE, "the body is slower than the minimum rate")
                )
        await self._check_end()

    async def _ask(self, host: Host) -> Response:
        self._started = self._waited_since = time.monotonic()
        end = self._end if self._end < self._descriptor.size else None
        opened = await self._request.open(host, self._offset, end)
        response, self._skip = opened.response, opened.skip
        self._to_a_range, self._ranged = opened.to_a_range, opened.ranged
        self._asked_ranges |= opened.to_a_range
        self._opened_at = self._offset
        response.limit_silence(self._watch.limit(self._tries.left))
        if host not in self._sources:
            self._sources.append(host)
        self._host = host
        return response

    async def _read(self, body: Response) -> bytes | None:
        """The next bytes that were not had before; None where the body ended or broke."""
        asked = time.monotonic()
        try:
            chunk = await body.read()
        except HostFailure as failure:
            self._fail(failure)
            return None
        if not chunk:
            size = self._descriptor.size
            self._fail(
                HostFailure(Kind.UNREACHABLE, f"the body ended at {self._offset} of {size} bytes")
            )
            return None
        self._watch.heard(len(chunk), time.monotonic() - asked)
        await body.admit(len(chunk))
        self._waited_since = time.monotonic()
        if not self._skip:
            return chunk
        skipped = min(self._skip, len(chunk))
        self._skip -= skipped
        return chunk[skipped:] or None

    def _fail(self, failure: HostFailure) -> None:
        self.close()
        if self._to_a_range and self._unsettled < _PROGRESS_BYTES:
            self._fruitless += 1
            if self._offset == self._opened_at or self._fruitless == _FRUITLESS:
                self._request.doubt(self._host)
        self._unsettled = 0
        self._tries.failed(
            self._host, failure, self._request.url(self._host), self._started, self._waited_since
        )

    def _settle(self, body: Response, size: int) -> None:
        if self._unsettled < _PROGRESS_BYTES:
            self._unsettled += size
            if self._unsettled >= _PROGRESS_BYTES:
                self._tries.progressed()
                self._fruitless = 0
                body.limit_silence(self._watch.limit())

    async def _check_end(self) -> None:
        """All bytes were delivered; a body that goes on is not the content."""
        whole = self._end == self._descriptor.size
        if self._body is None or not whole or "Content-Length" in self._body.headers:
            return
        self._body.limit_silence(_TRAILING_SECONDS)
        try:
            trailing = await self._body.read()
        except HostFailure:
            return
        if trailing:
            raise self._too_long()

    def _too_long(self) -> CorruptContentError:
        self.discredit()
        return CorruptContentError(
            f"{self._descriptor.digest}: {self._host.authority} sends more than the "
            f"{self._descriptor.size} bytes of its descriptor"
        )
