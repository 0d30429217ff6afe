"""Authenticated requests to one host, and what its refusals mean."""

from __future__ import annotations

import time
from collections.abc import Mapping

from multidict import CIMultiDictProxy

from cri_imaged.registry.auth.access import Access, place_of, root_of
from cri_imaged.registry.auth.exchange import Exchange, Means
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.response import Response
from cri_imaged.registry.retry import TRANSIENT_STATUSES, parse_retry_after

GIVEN = frozenset({200, 201, 203, 206})
"""Statuses of answers with content. 201 and 203 come from proxies that store what they pass
on."""
_KINDS = {401: Kind.UNAUTHENTICATED, 403: Kind.PERMISSION_DENIED, 404: Kind.NOT_FOUND}


class Authorizer:
    """Sends requests to hosts, authenticating where they ask for it."""

    def __init__(self, means: Means) -> None:
        self._means = means

    async def get(
        self, host: Host, thing: str, access: Access, headers: Mapping[str, str]
    ) -> Response:
        """GET `thing` (`blobs/…`, `manifests/…`) of the repository, answered with content.

        Raises:
            HostFailure: any other answer, or none.
            ConfigError: credentials or TLS files of the configuration are unusable.
        """
        exchange = Exchange(self._means, place_of(host, thing, access), access, "GET", headers)
        response = await exchange.run()
        if response.status in GIVEN:
            return response
        try:
            raise exchange.told(await self._failure(response, exchange))
        finally:
            response.close()

    async def enter(self, host: Host, access: Access) -> bool:
        """GET the root of the host's API, as logging in does. Tells whether it wanted a login.

        Raises:
            HostFailure: it lets nobody in with this one, or does not answer.
            ConfigError: as for `get`.
        """
        exchange = Exchange(self._means, root_of(host, access), access, "GET", {})
        response = await exchange.run()
        try:
            # Who has no root answers 404, and has been asked whether another login would do.
            if response.status not in GIVEN and response.status != 404:
                raise exchange.told(await self._failure(response, exchange))
            return exchange.authorised
        finally:
            response.close()

    async def head(
        self, host: Host, thing: str, access: Access, headers: Mapping[str, str]
    ) -> CIMultiDictProxy[str] | None:
        """The headers of a HEAD of `thing` that is answered with status 200. None where the host
        refuses: it has no body to say why in, so ask again with GET.

        Raises:
            HostFailure: no answer, or one that asks to come back later.
            ConfigError: as for `get`.
        """
        exchange = Exchange(self._means, place_of(host, thing, access), access, "HEAD", headers)
        response = await exchange.run()
        try:
            if response.status in TRANSIENT_STATUSES:
                raise await self._failure(response, exchange)
            return response.headers if response.status == 200 else None
        finally:
            response.close()

    async def _failure(self, response: Response, exchange: Exchange) -> HostFailure:
        try:
            codes, text = await exchange.explanation(response)
        except HostFailure:
            codes, text = (), ""
        kind = _KINDS.get(response.status, Kind.REFUSED)
        later = parse_retry_after(response.headers.get("Retry-After"), time.time())
        # Some caches answer 202 and the like as long as they fetch what was asked for.
        asks_to_wait = kind is Kind.REFUSED and later is not None
        if asks_to_wait or response.status in TRANSIENT_STATUSES or _may_be_outdated(response):
            kind = Kind.UNREACHABLE
        line = exchange.status_line(response)
        return HostFailure(
            kind,
            f"{line} ({text})" if text else line,
            status=response.status,
            codes=codes,
            retry_after=later,
        )


def _may_be_outdated(response: Response) -> bool:
    """Whether a redirect's target refuses, as storage does where a signed URL has expired: the
    next redirect may lead to one that has not. A 401 is what another URL would be answered."""
    return response.redirected_to is not None and response.status != 401
