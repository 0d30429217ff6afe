"""Sends requests and follows redirects.

Credentials and configured headers go to the origin they are meant for and to no redirect's target.
Every failure is a `HostFailure`.
"""

from __future__ import annotations

import math
import ssl
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

import structlog
from yarl import URL

from cri_imaged.limits import Limits
from cri_imaged.oci.authority import split_port
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host, TlsSettings
from cri_imaged.registry.hosts.reading import reading
from cri_imaged.registry.http.addresses import Reach, reach
from cri_imaged.registry.http.dial import Route, proxy_login
from cri_imaged.registry.http.errors import MalformedError
from cri_imaged.registry.http.exchange import request_head
from cri_imaged.registry.http.explanations import Explainer, NoTlsError
from cri_imaged.registry.http.proxies import Proxies
from cri_imaged.registry.http.request import (
    Request,
    authority,
    redirect_target,
    same_origin,
)
from cri_imaged.registry.http.response import Response
from cri_imaged.registry.http.sender import Message, Sender
from cri_imaged.registry.http.telemetry import Telemetry
from cri_imaged.registry.http.tls import TlsContexts
from cri_imaged.registry.http.traffic import Traffic

log = structlog.get_logger()
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEPING_THE_FORM = frozenset({307, 308})
_PROBE_SECONDS = 5.0
"""To connect where TLS is tried first."""
_PROBED_SECONDS = 300.0
"""How long it is remembered that a host does not speak TLS."""
_KNOWN_HOSTS = 4096


class Transport:
    """Sends requests. An async context manager that owns the connections."""

    def __init__(
        self,
        limits: Limits,
        response_header_timeout: float,
        environ: Mapping[str, str],
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._limits = limits
        self._header_timeout = response_header_timeout
        self._proxies = Proxies.from_environment(environ)
        self._contexts = TlsContexts()
        self.traffic = Traffic()
        self._plain: OrderedDict[str, float] = OrderedDict()
        self._reached: OrderedDict[str, Reach] = OrderedDict()
        """The farthest address that each host answered from."""

    async def __aenter__(self) -> Transport:
        self._sender = Sender(self._limits, self._header_timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sender.close()

    def scheme(self, host: Host) -> str:
        """What `host` is spoken to in, as far as is known by now."""
        return "http" if self._is_plain(host) else host.scheme

    def is_public(self, host: Host) -> bool:
        """Whether `host` is anywhere but in our own network: it answered from a public address at
        least once, or never yet and its name does not say better."""
        known = self._reached.get(host.authority)
        return (reach(split_port(host.authority)[0]) if known is None else known) is Reach.PUBLIC

    async def send(self, request: Request) -> Response:
        """Send `request` and follow redirects.

        Raises:
            HostFailure: no response at all, or a redirect that must not be followed.
            ConfigError: the host's TLS files are unusable.
        """
        if not request.may_be_plain:
            return await self._follow(request)
        plain = replace(request, url=request.url.with_scheme("http"))
        if self._is_plain(request.host):
            return await self._follow(plain)
        try:
            return await self._follow(request)
        except NoTlsError:
            response = await self._follow(plain)
            self._plain[request.host.authority] = time.monotonic()
            _forget_oldest(self._plain)
            return response

    def _is_plain(self, host: Host) -> bool:
        probed = self._plain.get(host.authority)
        return probed is not None and time.monotonic() - probed < _PROBED_SECONDS

    async def _follow(self, request: Request) -> Response:
        url = request.url
        nearest = request.nearest
        for hops in range(self._limits.redirects + 1):
            quotable = hops == 0 and not request.signed
            response = await self._once(request, url, nearest, quotable=quotable)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            url = redirect_target(url, response.headers.get("Location"))
            kept = response.status in _KEEPING_THE_FORM and request.belongs_to(url)
            if request.form is not None and not kept:
                raise HostFailure(Kind.REFUSED, "answers a form with a redirect")
            if response.reach is Reach.PUBLIC:
                # It may know our network's storage, but has no business with this very node.
                nearest = min(nearest, Reach.PRIVATE)
        raise HostFailure(Kind.REFUSED, f"more than {self._limits.redirects} redirects")

    async def _once(
        self, request: Request, url: URL, nearest: Reach, *, quotable: bool
    ) -> Response:
        own = request.belongs_to(url)
        probing = own and request.may_be_plain and url.scheme == "https"
        dial = min(request.host.dial_seconds, _PROBE_SECONDS if probing else math.inf)
        explain = Explainer(authority(url), dial, probing)
        route = await self._route(request.host, url, own)
        message = _message(request, url, route)
        started = time.monotonic()
        asked = request.host.authority if own else authority(url)
        try:
            answer = await self._sender.send(route, message, nearest, explain)
        except HostFailure:
            self._telemetry.unanswered(asked)
            raise
        seconds = time.monotonic() - started
        self._telemetry.answered(asked, answer.head, seconds)
        log.debug(
            "registry answered",
            method=request.method,
            host=authority(url),
            # Paths of other hosts may be signed.
            path=url.raw_path if own and not request.signed else None,
            status=answer.head.status,
            seconds=round(seconds, 3),
        )
        self._remember(request.host, url, answer.reach)
        target = None if own else authority(url)
        return Response(
            answer,
            url,
            target,
            self._header_timeout,
            self.traffic,
            request.host,
            quotable=quotable,
        )

    async def _route(self, host: Host, url: URL, own: bool) -> Route:
        proxy = self._proxies.proxy_for(url)
        tls = proxy_tls = None
        if url.scheme == "https":
            tls = await self._tls(host.tls if own else replace(host.tls, clients=()))
        if proxy is not None and proxy.scheme == "https":
            proxy_tls = await self._tls(TlsSettings())
        return Route(url.raw_host or "", url.port or 0, tls, proxy, proxy_tls)

    async def _tls(self, settings: TlsSettings) -> ssl.SSLContext:
        return await reading(lambda: self._contexts.get(settings))

    def _remember(self, host: Host, url: URL, found: Reach) -> None:
        """How far away `host` itself answers from."""
        if not same_origin(url, URL(f"{url.scheme}://{host.authority}")):
            return
        known = self._reached.pop(host.authority, found)
        self._reached[host.authority] = min(known, found)
        _forget_oldest(self._reached)


def _forget_oldest(hosts: OrderedDict[str, float] | OrderedDict[str, Reach]) -> None:
    while len(hosts) > _KNOWN_HOSTS:
        hosts.popitem(last=False)


def _message(request: Request, url: URL, route: Route) -> Message:
    headers = request.headers_for(url)
    target = url.raw_path_qs
    if route.proxy is not None and not route.tunnelled:
        target = str(url.with_fragment(None))
        headers.update(proxy_login(route.proxy))
    body = b""
    if request.form is not None:
        body = urllib.parse.urlencode(request.form, errors="surrogateescape").encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        headers["Content-Length"] = str(len(body))
    try:
        head = request_head(request.method, target, headers)
    except MalformedError as error:
        raise HostFailure(Kind.REFUSED, str(error)) from None
    return Message(request.method, head + body, repeatable=request.form is None)
