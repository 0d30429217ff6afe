"""Sends one request over a connection that is there or is made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cri_imaged.limits import Limits
from cri_imaged.registry.http.addresses import Reach
from cri_imaged.registry.http.dial import Dialer, Link, Route
from cri_imaged.registry.http.errors import EndedError, MalformedError
from cri_imaged.registry.http.exchange import Body, exchange
from cri_imaged.registry.http.explanations import Explainer
from cri_imaged.registry.http.head import Head
from cri_imaged.registry.http.names import Names
from cri_imaged.registry.http.pool import Pool


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it is sent."""

    method: str
    data: bytes
    repeatable: bool
    """Whether it may be sent again where a connection that was idle turns out to be closed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response's head, its body as it arrives, and from how near it comes."""

    head: Head
    body: Body
    reach: Reach


class Sender:
    """Owns the connections."""

    def __init__(self, limits: Limits, header_timeout: float) -> None:
        """`header_timeout`: seconds from a request to its response's headers."""
        self._limits = limits
        self._header_timeout = header_timeout
        self._names = Names()
        self._dialer = Dialer(self._names, limits)
        self._pool = Pool()

    def close(self) -> None:
        """Close idle connections, and those in use when they are let go of."""
        self._pool.close()
        self._names.close()

    async def send(
        self, route: Route, message: Message, nearest: Reach, explain: Explainer
    ) -> Answer:
        """Send `message` to an address that is no nearer than `nearest`. Raises `HostFailure`."""
        link = self._pool.take(route, nearest) if message.repeatable else None
        if link is not None:
            try:
                return await self._exchange(link, route, message)
            except EndedError:
                pass
            except (OSError, MalformedError) as error:
                raise explain.unanswered(error, self._header_timeout) from None
        link = await self._dialer.dial(route, nearest, explain)
        try:
            return await self._exchange(link, route, message)
        except (OSError, MalformedError) as error:
            raise explain.unanswered(error, self._header_timeout) from None

    async def _exchange(self, link: Link, route: Route, message: Message) -> Answer:
        connection = link.connection
        try:
            async with asyncio.timeout(self._header_timeout):
                head, framing, reusable = await exchange(
                    connection, message.method, message.data, self._limits
                )
        except BaseException:
            connection.close()
            raise
        give_back = (lambda: self._pool.put(route, link)) if reusable else None
        return Answer(head, Body(connection, framing, give_back), link.reach)
