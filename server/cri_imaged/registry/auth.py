"""Authenticated requests to one host: challenge, login, token, and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cri_imaged.limits import Limits
from cri_imaged.registry.challenge import Challenge, parse_challenges
from cri_imaged.registry.credentials import Logins
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts import Host
from cri_imaged.registry.login import Login
from cri_imaged.registry.retry import TRANSIENT_STATUSES, parse_retry_after
from cri_imaged.registry.tokens import (
    Proof,
    ProofCache,
    ProofKey,
    TokenRequest,
    fetch_token,
)
from cri_imaged.registry.transport import Request, Response, Transport

_KINDS = {401: Kind.UNAUTHENTICATED, 403: Kind.PERMISSION_DENIED, 404: Kind.NOT_FOUND}
_SCOPE_BYTES = 4096
_KEPT_SECONDS = 300.0
"""How long a host's wish for Basic or a registry token is remembered."""


@dataclass(frozen=True, slots=True)
class Access:
    """On whose behalf, and for what, hosts are asked."""

    registry: str
    repository: str
    logins: Logins

    @property
    def scope(self) -> str:
        """The token scope that pulling takes."""
        return f"repository:{self.repository}:pull"


class Authorizer:
    """Sends requests to hosts, authenticating where they ask for it."""

    def __init__(self, transport: Transport, proofs: ProofCache, limits: Limits) -> None:
        self._transport = transport
        self._proofs = proofs
        self._limits = limits

    async def get(
        self, host: Host, path: str, access: Access, headers: Mapping[str, str]
    ) -> Response:
        """GET `path` (below the host's API root), answered with status 200 or 206.

        Raises:
            HostFailure: any other answer, or none.
            ConfigError: credentials or TLS files of the configuration are unusable.
        """
        response, secrets = await self._ask("GET", host, path, access, headers)
        if response.status in (200, 206):
            return response
        try:
            raise await _failure(response, self._limits, secrets)
        finally:
            response.close()

    async def head(
        self, host: Host, path: str, access: Access, headers: Mapping[str, str]
    ) -> CIMultiDictProxy[str] | None:
        """The headers of a HEAD of `path` that is answered with status 200. None where the host
        refuses: it has no body to say why in, so ask again with GET.

        Raises:
            HostFailure: no answer, or one that asks to come back later.
            ConfigError: as for `get`.
        """
        response, secrets = await self._ask("HEAD", host, path, access, headers)
        try:
            if response.status in TRANSIENT_STATUSES:
                raise await _failure(response, self._limits, secrets)
            return response.headers if response.status == 200 else None
        finally:
            response.close()

    async def _ask(
        self, method: str, host: Host, path: str, access: Access, headers: Mapping[str, str]
    ) -> tuple[Response, list[str]]:
        """The answer that no further authentication would change, open, and the secrets that it
        may echo."""
        url = api_url(host, path, access.registry)
        key = (host.authority, access.scope, access.logins.identity(host))
        proof = self._proofs.get(key)
        met: set[str] = set()
        secrets = [*host.secrets]
        for _ in range(self._limits.authentication_rounds):
            own: CIMultiDict[str] = CIMultiDict(host.headers)
            if proof is not None:
                own["Authorization"] = proof.value
                secrets.append(proof.value.partition(" ")[2])
            response = await self._transport.send(
                Request(url, host, method, headers=headers, own_headers=own)
            )
            if proof is not None and _is_refused(response):
                self._proofs.drop(key, proof)
            challenges = _challenges(response)
            if not challenges or repr(challenges) in met:
                return response, secrets
            try:
                await response.read_all(self._limits.error_body_bytes)
            finally:
                response.close()
            met.add(repr(challenges))
            login = await access.logins.login(host)
            secrets.extend(login.secrets)
            proof = await self._answer(host, key, challenges, login)
        raise HostFailure(
            Kind.UNAUTHENTICATED,
            f"not satisfied within {self._limits.authentication_rounds} authentication rounds",
            status=401,
        )

    async def _answer(
        self, host: Host, key: ProofKey, challenges: tuple[Challenge, ...], login: Login
    ) -> Proof:
        """What to show for the challenge that can be met, bearer before basic."""
        async with self._proofs.lock(key):
            proof = self._proofs.get(key)
            if proof is None:
                proof = await self._make(host, key[1], challenges, login)
                self._proofs.put(key, proof)
            return proof

    async def _make(
        self, host: Host, scope: str, challenges: tuple[Challenge, ...], login: Login
    ) -> Proof:
        schemes = {challenge.scheme: challenge for challenge in reversed(challenges)}
        bearer = schemes.get("bearer")
        expires = time.monotonic() + _KEPT_SECONDS
        if bearer is not None and login.registry_token:
            return Proof(f"Bearer {login.registry_token}", expires)
        if bearer is not None and "realm" in bearer.parameters:
            wanted = _wanted(bearer, scope)
            return await fetch_token(self._transport, self._limits, host, wanted, login)
        if "basic" in schemes and login.username:
            return Proof(login.basic, expires)
        given = "no credentials were given" if login.anonymous else "the credentials do not fit"
        asked = ", ".join(sorted(name[:20] for name in schemes)[:5])
        raise HostFailure(
            Kind.UNAUTHENTICATED, f"401, asks for {asked} authentication; {given}", status=401
        )


def api_url(host: Host, path: str, registry: str) -> URL:
    """The URL of `path` at `host`; hosts other than the registry's own are told its name."""
    url = URL(host.url(path), encoded=True)
    return url.with_query({"ns": registry}) if host.is_proxy_for(registry) else url


def _wanted(bearer: Challenge, scope: str) -> TokenRequest:
    asked = bearer.parameters.get("scope", "")[:_SCOPE_BYTES].split()
    scopes = tuple(dict.fromkeys([scope, *asked]))
    return TokenRequest(bearer.parameters["realm"], bearer.parameters.get("service", ""), scopes)


def _is_refused(response: Response) -> bool:
    """Whether the host was not content with what it was shown. A redirect's target is shown
    nothing."""
    return response.status == 401 and response.redirected_to is None


def _challenges(response: Response) -> tuple[Challenge, ...]:
    """What the host wants to be shown; nothing where its answer is final."""
    if not _is_refused(response):
        return ()
    return parse_challenges(response.headers.getall("WWW-Authenticate", ()))


async def _failure(response: Response, limits: Limits, secrets: list[str]) -> HostFailure:
    try:
        codes, text = await response.describe_error(limits.error_body_bytes, secrets)
    except HostFailure:
        codes, text = (), ""
    kind = _KINDS.get(response.status, Kind.REFUSED)
    if response.status in TRANSIENT_STATUSES or response.redirected_to is not None:
        kind = Kind.UNREACHABLE
    return HostFailure(
        kind,
        f"{response.status_line} ({text})" if text else response.status_line,
        status=response.status,
        codes=codes,
        retry_after=parse_retry_after(response.headers.get("Retry-After"), time.time()),
    )
