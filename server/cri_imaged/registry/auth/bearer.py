"""Bearer tokens, most often from a registry's token server.

Requests as the distribution project's token specification gives them: GET with Basic credentials
or none, POST (OAuth2) with an identity token, or with user and password where GET is not there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from multidict import CIMultiDict
from yarl import URL

from cri_imaged import spool
from cri_imaged.disk import on_disk
from cri_imaged.limits import Limits
from cri_imaged.oci import lenient_json
from cri_imaged.registry.auth.challenge import Challenge
from cri_imaged.registry.auth.login import Login
from cri_imaged.registry.auth.schemes import Asked, Authorization, Shown, as_it_is
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.request import Request, is_http, same_origin
from cri_imaged.registry.http.response import Response
from cri_imaged.registry.http.transport import Transport
from cri_imaged.registry.retry import TRANSIENT_STATUSES, parse_retry_after
from cri_imaged.shielding import to_the_end
from cri_imaged.spool import Spools

_CLIENT_ID = "cri-imaged"
_DEFAULT_LIFETIME = 60.0
_LONGEST_LIFETIME = 1e9
_MARGIN = 0.1
_NULL = msgspec.Raw(b"null")
_NUMBER_BYTES = 100
_TOKEN_CHARACTERS = 64 << 10
"""It is sent with each request, and kept until it expires."""
_COPIES = 8
"""Of a token server's answer that are held at once, at most."""
_SCOPE_BYTES = 4096
_DENIALS = {401: Kind.UNAUTHENTICATED, 403: Kind.PERMISSION_DENIED}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a token is to be good for."""

    realm: URL
    service: str
    scopes: tuple[str, ...]

    @property
    def query(self) -> list[tuple[str, str]]:
        """Of a GET."""
        service = [("service", self.service)] if self.service else []
        return [*service, *(("scope", scope) for scope in self.scopes)]

    def form(self, login: Login) -> dict[str, str]:
        """Of a POST."""
        form = {"client_id": _CLIENT_ID, "service": self.service, "scope": " ".join(self.scopes)}
        if login.identity_token:
            return {**form, "grant_type": "refresh_token", "refresh_token": login.identity_token}
        user = {"username": login.username, "password": login.password}
        return {**form, "grant_type": "password", **user}


class _Answer(msgspec.Struct):
    """Null stands for absence, as every client in Go has it."""

    token: str | None = None
    access_token: str | None = None
    expires_in: msgspec.Raw = _NULL
    """Whoever misspells it has sent a token all the same."""


class Bearer:
    """Tokens of a token server, or a registry token as it is (RFC 6750)."""

    def __init__(self, transport: Transport, limits: Limits, spools: Spools) -> None:
        self._transport = transport
        self._limits = limits
        self._spools = spools

    async def meet(self, challenge: Challenge, asked: Asked) -> Authorization | None:
        """See `Scheme.meet`."""
        if asked.login.registry_token:
            return as_it_is(f"Bearer {asked.login.registry_token}")
        if "realm" not in challenge.parameters:
            return None
        wanted = _wanted(challenge, asked.scope, self._transport.scheme(asked.host))
        try:
            return await self._fetch(asked.host, wanted, asked.login)
        except HostFailure as failure:
            raise failure.within(f"token server {_shown(wanted.realm)}") from None

    async def _fetch(self, host: Host, wanted: _Wanted, login: Login) -> Shown:
        public_only = self._transport.is_public(host)
        post = bool(login.identity_token)
        response = await self._ask(host, wanted, login, post, public_only)
        if response.status in (404, 405) and login.username:
            response.close()
            response = await self._ask(host, wanted, login, True, public_only)
        try:
            return await self._read(response, (*login.secrets, *host.secrets))
        finally:
            response.close()

    async def _ask(
        self, host: Host, wanted: _Wanted, login: Login, post: bool, public_only: bool
    ) -> Response:
        scheme = self._transport.scheme(host)
        own = same_origin(wanted.realm, URL(f"{scheme}://{host.authority}"))
        headers: CIMultiDict[str] = CIMultiDict(host.headers if own else ())
        if login.username and not post:
            headers["Authorization"] = login.basic
        return await self._transport.send(
            Request(
                wanted.realm if post else wanted.realm.extend_query(wanted.query),
                host,
                method="POST" if post else "GET",
                headers={"Accept": "application/json"},
                own_headers=headers,
                form=wanted.form(login) if post else None,
                public_only=public_only,
            )
        )

    async def _read(self, response: Response, secrets: Iterable[str]) -> Shown:
        if not 200 <= response.status < 300:
            raise await self._refusal(response, secrets)
        limit = self._limits.token_bytes
        body = self._spools.new()
        try:
            if not await response.save(body, limit):
                raise HostFailure(
                    Kind.REFUSED, f"sent more than {limit} bytes, the limit of a token"
                )
            async with self._spools.memory.holding(_COPIES * spool.size_of(body), "token"):
                told = await to_the_end(on_disk(lambda: _told(spool.read(body))))
        finally:
            await to_the_end(on_disk(body.close))
        if isinstance(told, HostFailure):
            raise told
        return told

    async def _refusal(self, response: Response, secrets: Iterable[str]) -> HostFailure:
        codes, text = await response.describe_error(self._limits.error_body_bytes, secrets)
        shown = f": {text}" if text else ""
        transient = response.status in TRANSIENT_STATUSES
        return HostFailure(
            _DENIALS.get(response.status, Kind.UNREACHABLE if transient else Kind.REFUSED),
            f"answered {response.status_line}{shown}",
            status=response.status,
            codes=codes,
            retry_after=parse_retry_after(response.headers.get("Retry-After"), time.time()),
        )


def _wanted(challenge: Challenge, scope: str, registry_scheme: str) -> _Wanted:
    """What the challenge names and nothing else: strict token servers refuse to be asked for
    more, and a mirror may name its repositories in its own way.

    Raises:
        HostFailure: the realm must not be asked.
    """
    named = challenge.parameters.get("scope", "")[:_SCOPE_BYTES].split()
    service = challenge.parameters.get("service", "")
    if not all(text.isprintable() for text in (*named, service)):
        raise HostFailure(Kind.REFUSED, "asks for a token with a malformed scope or service")
    realm = _realm(challenge.parameters["realm"], registry_scheme)
    return _Wanted(realm, service, tuple(dict.fromkeys(named or scope.split())))


def _realm(text: str, registry_scheme: str) -> URL:
    try:
        realm = URL(text).with_fragment(None)
        usable = is_http(realm)
    except ValueError:
        raise HostFailure(Kind.REFUSED, "asks for a token from a malformed realm") from None
    if not usable:
        raise HostFailure(Kind.REFUSED, "asks for a token from a realm that is no http(s) URL")
    if realm.user is not None:
        raise HostFailure(Kind.REFUSED, "asks for a token from a realm with user information")
    if realm.scheme == "http" and registry_scheme != "http":
        raise HostFailure(
            Kind.REFUSED,
            f"asks for a token from {_shown(realm)}: refused, plain http, "
            "but the registry is https",
        )
    return realm


def _told(body: bytes) -> Shown | HostFailure:
    """A token, or what is wrong; without the frames that have the body."""
    try:
        answer = lenient_json.decode(body, _Answer, strict=False)
    except ValueError:
        return HostFailure(Kind.REFUSED, "answered with something else than JSON")
    value = answer.token or answer.access_token
    if not value:
        return HostFailure(Kind.REFUSED, "answered without a token")
    if len(value) > _TOKEN_CHARACTERS:
        return HostFailure(
            Kind.REFUSED, f"answered with a token of more than {_TOKEN_CHARACTERS} characters"
        )
    if not (value.isascii() and value.isprintable()):
        return HostFailure(Kind.REFUSED, "answered with a malformed token")
    seconds = _lifetime(bytes(memoryview(answer.expires_in)[:_NUMBER_BYTES])) * (1 - _MARGIN)
    return Shown(f"Bearer {value}", time.monotonic() + seconds)


def _lifetime(told: bytes) -> float:
    """Seconds; what is none of more than 0 is as good as absent."""
    try:
        seconds = lenient_json.decode(told, float, strict=False)
    except ValueError:
        return _DEFAULT_LIFETIME
    return min(seconds, _LONGEST_LIFETIME) if seconds > 0 else _DEFAULT_LIFETIME


def _shown(realm: URL) -> str:
    return f"{realm.host_subcomponent}:{realm.port}"
