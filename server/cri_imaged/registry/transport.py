"""One HTTP request: connections, TLS, proxies, redirects and timeouts.

Credentials and configured headers go to the origin they are meant for and to no redirect's target.
Every failure is a `HostFailure`.
"""

from __future__ import annotations

import asyncio
import http.client
import math
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType

import aiohttp
import structlog
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cri_imaged import __version__
from cri_imaged.limits import Limits
from cri_imaged.registry.addresses import PublicResolver, is_private
from cri_imaged.registry.explanations import NoTlsError, explain_body, explain_request
from cri_imaged.registry.failures import HostFailure, Kind, describe_body
from cri_imaged.registry.hosts import Host
from cri_imaged.registry.proxies import Proxies
from cri_imaged.registry.tls import TlsContexts

_log = structlog.get_logger(__name__)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_READ_BUFFER = 64 << 10
"""Reading pauses at twice this: chunks are what the event loop reads at once (250 KiB), uncopied.
Larger buffers are joined from several such reads, which costs a quarter of the throughput."""
_HEADER_LINE = 16 << 10
_SLOWEST = 1024
"""Bytes a second, of documents, tokens and errors; blobs have a rate of their own."""
_IDLE_SECONDS = 30.0
_PROBE_SECONDS = 5.0
"""To connect where TLS is tried first."""
_PROBED_SECONDS = 300.0
"""How long it is remembered that a host does not speak TLS."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of `host`."""

    url: URL
    host: Host
    """Whose TLS settings, dial timeout and headers are used."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to a redirect's target as well."""
    own_headers: CIMultiDict[str] = field(default_factory=CIMultiDict, repr=False)
    """Sent to the URL's own origin only."""
    form: Mapping[str, str] | None = field(default=None, repr=False)
    public_only: bool = False
    """Refuse private addresses, also behind a redirect."""

    @property
    def may_be_plain(self) -> bool:
        """Whether plain http will do where TLS is not spoken. It goes for the host alone: a token
        server that the host names with https is never sent a password without TLS."""
        host = self.host
        return host.plain_fallback and same_origin(
            self.url, URL(f"{host.scheme}://{host.authority}")
        )


class Response:
    """An open response. Close it."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        redirected_to: str | None,
        silence: float,
        *,
        quotable: bool,
    ) -> None:
        """`silence`: see `limit_silence`. `quotable`: whether an error's body may be shown."""
        self._response = response
        self._silence = silence
        self._quotable = quotable
        self.status = response.status
        self.headers: CIMultiDictProxy[str] = response.headers
        self.redirected_to = redirected_to
        """Host and port of the redirect's target, where the origin itself did not answer."""
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            # The library's own timer ends with its parser: after a malformed chunk nobody would
            # ever wake the reader.
            connection.protocol.read_timeout = None
            connection.protocol.start_timeout()

    @property
    def status_line(self) -> str:
        """Status with its usual phrase (that of the host could say anything), and who gave it
        where that was a redirect's target."""
        phrase = http.client.responses.get(self.status, "")
        line = f"{self.status} {phrase}".rstrip()
        return f"{line} from {self.redirected_to}" if self.redirected_to else line

    def limit_silence(self, seconds: float) -> None:
        """From now on, `read` fails after `seconds` in which the peer sends nothing."""
        self._silence = seconds

    async def read(self) -> bytes:
        """Some bytes of the body; none at its end. Raises `HostFailure`."""
        try:
            async with asyncio.timeout(self._silence):
                return await self._response.content.readany()
        except (TimeoutError, aiohttp.ClientError, OSError, RuntimeError) as error:
            raise explain_body(error) from None

    async def read_all(self, limit: int) -> bytes | None:
        """The whole small body, or None where it is longer than `limit` bytes. Raises
        `HostFailure`."""
        body = bytearray()
        began = time.monotonic()
        while chunk := await self.read():
            body += chunk
            if len(body) > limit:
                return None
            if time.monotonic() - began > self._silence + len(body) / _SLOWEST:
                raise HostFailure(Kind.UNREACHABLE, "the body trickles")
        return bytes(body)

    async def describe_error(
        self, limit: int, secrets: Iterable[str]
    ) -> tuple[tuple[str, ...], str]:
        """Codes and text of an error's body, as `describe_body` has them. Nothing where a redirect
        led here: its URL may be signed, and be repeated. Raises `HostFailure`."""
        body = await self.read_all(limit) if self._quotable else None
        return describe_body(body or b"", secrets)

    def close(self) -> None:
        """Give the connection back where the body was read to its end; close it otherwise."""
        self._response.release()


class Transport:
    """Sends requests. An async context manager that owns the connections."""

    def __init__(
        self,
        limits: Limits,
        response_header_timeout: float,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._redirects = limits.redirects
        self._header_timeout = response_header_timeout
        self._proxies = Proxies.from_environment(environ)
        self._contexts = TlsContexts()
        self._plain: dict[str, float] = {}

    async def __aenter__(self) -> Transport:
        self._session = _open_session(None)
        self._public_session = _open_session(PublicResolver())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()
        await self._public_session.close()

    def scheme(self, host: Host) -> str:
        """What `host` is spoken to in, as far as is known by now."""
        return "http" if self._is_plain(host) else host.scheme

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
            return response

    def _is_plain(self, host: Host) -> bool:
        probed = self._plain.get(host.authority)
        return probed is not None and time.monotonic() - probed < _PROBED_SECONDS

    async def _follow(self, request: Request) -> Response:
        url = request.url
        for hops in range(self._redirects + 1):
            response = await self._once(request, url)
            if response.status not in _REDIRECTS:
                crossed = not same_origin(url, request.url)
                target = _authority(url) if crossed else None
                return Response(response, target, self._header_timeout, quotable=hops == 0)
            response.release()
            if request.form is not None:
                raise HostFailure(Kind.REFUSED, "answers a form with a redirect")
            url = self._target(url, response.headers.get("Location"))
        raise HostFailure(Kind.REFUSED, f"more than {self._redirects} redirects")

    async def _once(self, request: Request, url: URL) -> aiohttp.ClientResponse:
        if request.public_only and is_private(url.host or ""):
            raise HostFailure(Kind.REFUSED, f"leads to the private address {url.host}")
        proxy = self._proxies.proxy_for(url)
        # A proxy resolves names itself, and its own address is private more often than not.
        checked = request.public_only and proxy is None
        session = self._public_session if checked else self._session
        own = same_origin(url, request.url)
        probing = own and request.may_be_plain and url.scheme == "https"
        dial = min(request.host.dial_seconds, _PROBE_SECONDS if probing else math.inf)
        started = time.monotonic()
        try:
            # The library's `sock_read` begins anew with each byte of the headers.
            async with asyncio.timeout(dial + self._header_timeout):
                response = await session.request(
                    request.method,
                    url,
                    headers=_headers(request, own),
                    data=request.form,
                    allow_redirects=False,
                    ssl=await self._tls(request.host, own) if url.scheme == "https" else True,
                    proxy=proxy,
                    timeout=aiohttp.ClientTimeout(connect=dial, sock_read=self._header_timeout),
                )
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise explain_request(
                error,
                _authority(url),
                header_timeout=self._header_timeout,
                dial=dial,
                probing=probing,
            ) from None
        _log.debug(
            "registry.response",
            method=request.method,
            host=_authority(url),
            # Paths of other hosts may be signed.
            path=url.raw_path if own else None,
            status=response.status,
            seconds=round(time.monotonic() - started, 3),
        )
        return response

    async def _tls(self, host: Host, own: bool) -> ssl.SSLContext:
        settings = host.tls if own else replace(host.tls, clients=())
        return await asyncio.to_thread(self._contexts.get, settings)

    @staticmethod
    def _target(url: URL, location: str | None) -> URL:
        if not location:
            raise HostFailure(Kind.REFUSED, "redirects without saying where to")
        try:
            target = url.join(URL(location, encoded=True))
            usable = is_http(target)
        except ValueError:
            raise HostFailure(Kind.REFUSED, "redirects to a malformed URL") from None
        if not usable:
            raise HostFailure(Kind.REFUSED, "redirects to something that is not http or https")
        if url.scheme == "https" and target.scheme == "http":
            raise HostFailure(
                Kind.REFUSED, f"redirects from https to http at {_authority(target)}: refused"
            )
        return target.with_user(None) if target.user is not None else target


def _headers(request: Request, own: bool) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict(
        {"User-Agent": f"cri-imaged/{__version__}", "Accept-Encoding": "identity"}
    )
    headers.update(request.headers)
    if own:
        for name in request.own_headers:
            headers.popall(name, None)
        headers.extend(request.own_headers)
    return headers


def _open_session(resolver: PublicResolver | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
        max_line_size=_HEADER_LINE,
        max_field_size=_HEADER_LINE,
    )


def is_http(url: URL) -> bool:
    """Whether it is an http or https URL of a host. Raises `ValueError` where host or port are
    malformed, which the library finds out only when they are asked for."""
    return url.scheme in ("http", "https") and bool(url.host)


def same_origin(one: URL, other: URL) -> bool:
    """Whether scheme, host and port are the same."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _authority(url: URL) -> str:
    return f"{url.host_subcomponent}:{url.port}"
