"""An open response."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Iterable
from typing import BinaryIO

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cri_imaged import spool
from cri_imaged.ports import Activity
from cri_imaged.registry.error_bodies import describe_body, describe_text
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.coding import CODINGS, Decompressed
from cri_imaged.registry.http.errors import MalformedError
from cri_imaged.registry.http.explanations import explain_body
from cri_imaged.registry.http.request import authority
from cri_imaged.registry.http.sender import Answer
from cri_imaged.registry.http.traffic import Traffic

_SLOWEST = 1024
"""Bytes a second, of documents, tokens and errors; blobs have a rate of their own."""


class Response:
    """An open response. Close it."""

    def __init__(
        self,
        answer: Answer,
        url: URL,
        redirected_to: str | None,
        silence: float,
        traffic: Traffic,
        asked: Host,
        *,
        quotable: bool,
    ) -> None:
        """`silence`: see `limit_silence`. `asked` may have redirected to who answers; the body is
        its traffic. `quotable`: whether an error's body may be shown."""
        head = answer.head
        self._body = answer.body
        self._read = answer.body.read
        self._silence = silence
        self._traffic = traffic
        self._asked = asked
        self._quotable = quotable
        self._activity = Activity()
        self._wire_length = head.headers.get("Content-Length")
        self.status = head.status
        self.headers: CIMultiDictProxy[str] = head.headers
        self.url = url
        """Who answered, which may be another than was asked. May hold a signature."""
        self._authority = authority(url)
        self.reach = answer.reach
        """Of the address that answered."""
        self.redirected_to = redirected_to
        """Host and port of the redirect's target, where the origin itself did not answer."""
        codings = _codings(head.headers)
        self.is_coded = self.status != 206 and len(codings) == 1 and codings[0] in CODINGS
        """Whether the body is decompressed, as its header says."""
        if self.is_coded:
            self._decode(head.headers, codings[0])

    def _decode(self, announced: CIMultiDictProxy[str], coding: str) -> None:
        self._read = Decompressed(self._body.read, coding).read
        headers = CIMultiDict(announced)
        for name in ("Content-Encoding", "Content-Length"):
            headers.popall(name, None)
        self.headers = CIMultiDictProxy(headers)

    @property
    def status_line(self) -> str:
        """Status with its usual phrase (that of the host could say anything), and who gave it
        where that was a redirect's target."""
        phrase = http.client.responses.get(self.status, "")
        line = f"{self.status} {phrase}".rstrip()
        return f"{line} from {self.redirected_to}" if self.redirected_to else line

    def expect_size(self, size: int, *, otherwise: bool) -> None:
        """Say, before reading, how many bytes the content has: a body of that length is taken as
        it is, and others are if that proved wrong (`otherwise`). Some stores mark the gzip
        archives that they hold as gzip-coded."""
        if (self._wire_length == str(size)) is not otherwise:
            self._read = self._body.read

    def limit_silence(self, seconds: float) -> None:
        """From now on, `read` fails after `seconds` in which the peer sends nothing."""
        self._silence = seconds

    def show_in(self, activity: Activity) -> None:
        """Have what is read from now on show in a pull's activity."""
        self._activity = activity

    async def read(self) -> bytes:
        """Some bytes of the body; none at its end. Raises `HostFailure`."""
        try:
            with self._activity.waiting(self._authority):
                async with asyncio.timeout(self._silence):
                    chunk = await self._read()
            self._activity.count(len(chunk))
            return chunk
        except (OSError, MalformedError) as error:
            raise explain_body(error) from None

    async def admit(self, size: int) -> None:
        """Wait until this pull may have so many bytes, which were read, as the caps on bandwidth
        and those who go first have it. All else than blobs is let through, and counts."""
        await self._traffic.admit(self._asked, size, self._activity)

    async def read_all(self, limit: int) -> bytes | None:
        """The whole small body, or None where it is longer than `limit` bytes. Raises
        `HostFailure`."""
        body = await self._read_beyond(limit)
        return body if len(body) <= limit else None

    async def save(self, into: BinaryIO, limit: int) -> bool:
        """Write the whole body to a file; False where it is longer than `limit` bytes. Raises
        `HostFailure`, `NoSpaceError`."""
        return await spool.save(self._chunks(limit), into) <= limit

    async def _read_beyond(self, limit: int) -> bytes:
        """The whole body, or more than `limit` bytes of it."""
        body = bytearray()
        async for chunk in self._chunks(limit):
            body += chunk
        return bytes(body)

    async def _chunks(self, limit: int) -> AsyncIterator[bytes]:
        """Of the whole body, or of more than `limit` bytes of it."""
        size = 0
        began = time.monotonic()
        while size <= limit and (chunk := await self.read()):
            size += len(chunk)
            self._traffic.charge(self._asked, len(chunk))
            if time.monotonic() - began > self._silence + size / _SLOWEST:
                raise HostFailure(Kind.UNREACHABLE, "the body trickles")
            yield chunk

    async def describe_error(
        self, limit: int, secrets: Iterable[str]
    ) -> tuple[tuple[str, ...], str]:
        """Codes and text of the first `limit` bytes of an error's body, as `describe_body` has
        them. Nothing where a redirect led here: its URL may be signed, and be repeated. Raises
        `HostFailure`."""
        body = await self._read_beyond(limit)
        return describe_body(body[:limit] if self._quotable else b"", secrets)

    def quoted(self, text: str, secrets: Iterable[str]) -> str:
        """What its headers say, made fit for a message; nothing where `describe_error` has none."""
        return describe_text(text, secrets) if self._quotable else ""

    def close(self) -> None:
        """Give the connection back where the body has arrived to its end; close it otherwise."""
        self._body.close()


def _codings(headers: CIMultiDictProxy[str]) -> list[str]:
    """What changes the content."""
    names = ",".join(headers.getall("Content-Encoding", ())).lower().split(",")
    return [name for each in names if (name := each.strip()) not in ("", "identity")]
