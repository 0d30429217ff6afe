"""Connections that are open and wait for their next request."""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict

from cri_imaged.registry.http.addresses import Reach
from cri_imaged.registry.http.dial import Link, Route

_IDLE_SECONDS = 30.0
_IDLE_CONNECTIONS = 128
_OF_DESCRIPTORS = 8
"""One in so many of those that this process may have."""


class Pool:
    """Keeps idle connections. One on which something happens that nobody asked for is closed."""

    def __init__(self) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(_IDLE_CONNECTIONS, descriptors // _OF_DESCRIPTORS)
        """Over all hosts; the oldest are closed."""
        self._idle: OrderedDict[Link, tuple[Route, asyncio.TimerHandle]] = OrderedDict()
        self._closed = False

    def take(self, route: Route, nearest: Reach) -> Link | None:
        """The idle connection of `route` that was used last, to an address no nearer than
        `nearest`."""
        for link in reversed(self._idle):
            if self._idle[link][0] == route and link.reach <= nearest:
                self._remove(link)
                link.connection.watch_idle(None)
                if link.connection.quiet:
                    return link
                link.connection.close()
                return self.take(route, nearest)
        return None

    def put(self, route: Route, link: Link) -> None:
        """Keep a connection whose response was read to its end."""
        if self._closed:
            link.connection.close()
            return
        timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._drop, link)
        self._idle[link] = route, timer
        link.connection.watch_idle(lambda: self._drop(link))
        if len(self._idle) > self._most:
            self._drop(next(iter(self._idle)))

    def close(self) -> None:
        """Close all, and keep none from now on."""
        self._closed = True
        for link in list(self._idle):
            self._drop(link)

    def _drop(self, link: Link) -> None:
        if link in self._idle:
            self._remove(link)
            link.connection.watch_idle(None)
            link.connection.close()

    def _remove(self, link: Link) -> None:
        _, timer = self._idle.pop(link)
        timer.cancel()
