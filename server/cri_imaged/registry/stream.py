"""A content's bytes from an offset to its end, whatever happens on the way."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from cri_imaged.errors import CorruptContentError
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts import Host
from cri_imaged.registry.patience import Patience, Watch
from cri_imaged.registry.transport import Response
from cri_imaged.registry.tries import Tries

_PROGRESS_BYTES = 64 << 10
"""Delivered since the last failure, they make the budget of tries whole again."""
_TRAILING_SECONDS = 1.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")

Open = Callable[[Host, int, int | None], Awaitable[Response]]
"""Opens the content at a host, from an offset, up to an end where one is given. Raises
`HostFailure`."""


class ContentStream:
    """Implements `ports.ByteStream`; open it, iterate it once, close it.

    Where it is given an end, it asks for a range and stops there.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        offset: int,
        *,
        tries: Tries,
        open_at: Open,
        url: Callable[[Host], str],
        patience: Patience,
        on_discredit: Callable[[Descriptor, Sequence[Host]], None],
        end: int | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._end = descriptor.size if end is None else end
        self._tries = tries
        self._open_at = open_at
        self._url = url
        self._watch = Watch(patience)
        self._on_discredit = on_discredit
        self._sources: list[Host] = []
        self._body: Response | None = None
        self._skip = 0
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
            self._body = await self._tries.run(self._request, self._url)

    @property
    def ranged(self) -> bool:
        """Whether the open host answered with the range that it was asked for."""
        return self._body is not None and self._body.status == 206

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
        self._on_discredit(self._descriptor, self._sources)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._offset < self._end:
            if self._body is None:
                self._body = await self._tries.run(self._request, self._url)
            chunk = await self._read(self._body)
            if chunk is None:
                continue
            if len(chunk) > self._end - self._offset:
                if self._end == self._descriptor.size:
                    raise self._too_long()
                chunk = chunk[: self._end - self._offset]
            self._offset += len(chunk)
            self._settle(self._body, len(chunk))
            yield chunk
            self._waited_since = time.monotonic()
            if self._offset < self._end and self._watch.too_slow():
                self._fail(
                    HostFailure(Kind.UNREACHABLE, "the body is slower than the minimum rate")
                )
        await self._check_end()

    async def _request(self, host: Host) -> Response:
        self._started = self._waited_since = time.monotonic()
        try:
            end = self._end if self._end < self._descriptor.size else None
            response = await self._open_at(host, self._offset, end)
        except HostFailure as failure:
            raise self._watch.fail(failure, time.monotonic() - self._started) from None
        try:
            self._skip = leading_bytes(
                response.status, response.headers, self._offset, self._descriptor.size
            )
        except HostFailure:
            response.close()
            raise
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
            self._fail(self._watch.fail(failure, time.monotonic() - asked))
            return None
        if not chunk:
            size = self._descriptor.size
            self._fail(
                HostFailure(Kind.UNREACHABLE, f"the body ended at {self._offset} of {size} bytes")
            )
            return None
        self._waited_since = time.monotonic()
        self._watch.heard(len(chunk), self._waited_since - asked)
        if not self._skip:
            return chunk
        skipped = min(self._skip, len(chunk))
        self._skip -= skipped
        return chunk[skipped:] or None

    def _fail(self, failure: HostFailure) -> None:
        self.close()
        self._unsettled = 0
        self._tries.failed(
            self._host, failure, self._url(self._host), self._started, self._waited_since
        )

    def _settle(self, body: Response, size: int) -> None:
        if self._unsettled < _PROGRESS_BYTES:
            self._unsettled += size
            if self._unsettled >= _PROGRESS_BYTES:
                self._tries.progressed()
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


def leading_bytes(status: int, headers: Mapping[str, str], offset: int, size: int) -> int:
    """How many bytes at a body's begin lie before `offset`, of a content of `size` bytes that was
    asked for from `offset` (pure).

    Raises:
        HostFailure: the headers say that this is not the range, or not the content.
    """
    if status != 206:
        length = headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) != size:
            raise HostFailure(Kind.CORRUPT, f"offers {length[:20]} bytes, want {size}")
        return offset
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != offset:
        raise HostFailure(Kind.REFUSED, f"answers with another range than the one from {offset}")
    if found[3] != "*" and int(found[3]) != size:
        raise HostFailure(Kind.CORRUPT, f"offers {found[3]} bytes, want {size}")
    return 0
