"""One request to one host, asked until no further authentication would change the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict
from yarl import URL

from cri_imaged.limits import Limits
from cri_imaged.registry.auth.access import Access, Place, api_url
from cri_imaged.registry.auth.challenge import Challenge, parse_challenges, reason_of
from cri_imaged.registry.auth.grants import Grant, GrantCache
from cri_imaged.registry.auth.login import Login
from cri_imaged.registry.auth.schemes import Asked, Schemes
from cri_imaged.registry.failures import AUTHORITATIVE, HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.request import Request
from cri_imaged.registry.http.response import Response
from cri_imaged.registry.http.transport import Transport

_HIDING = frozenset({401, 403, 404})
"""What strangers are answered of a repository that those with the right login are shown."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every exchange of a client shares."""

    transport: Transport
    schemes: Schemes
    grants: GrantCache
    limits: Limits


class Exchange:
    """Run it once."""

    def __init__(
        self, means: Means, host: Place, access: Access, method: str, headers: Mapping[str, str]
    ) -> None:
        self._means = means
        self._place = host
        self._access = access
        self._method = method
        self._headers = headers
        self._grant: Grant | None = None
        """What the next request is sent with."""
        self._met: set[tuple[URL, str]] = set()
        """Challenges that were met: whoever repeats one is not content with the login."""
        self._logins: dict[Host, Login] = {}
        self._renewed = self._sought = False
        self._began = time.monotonic()
        self._problem = ""
        self.secrets = [*host.host.secrets]
        """What the answer may echo."""

    async def run(self) -> Response:
        """The last answer, open.

        Raises:
            HostFailure: no answer, or a challenge that cannot be met.
            ConfigError: credentials or TLS files of the configuration are unusable.
        """
        activity = self._access.activity
        with activity.waiting(self._place.host.authority):
            response = await self._answered()
        response.show_in(activity)
        return response

    async def _answered(self) -> Response:
        rounds = self._means.limits.authentication_rounds
        try:
            self._grant = await self._prepare()
            for _ in range(rounds):
                response = await self._send()
                try:
                    again = response.status in _HIDING and await self._follow_up(response)
                except BaseException:
                    response.close()
                    raise
                if not again:
                    return response
                response.close()
        except HostFailure as failure:
            raise self.told(failure) from None
        text = f"not satisfied within {rounds} authentication rounds"
        raise HostFailure(Kind.UNAUTHENTICATED, text, status=401)

    @property
    def authorised(self) -> bool:
        """Whether the last request showed what a challenge was met with."""
        return self._grant is not None

    def told(self, failure: HostFailure) -> HostFailure:
        """A denial, with why a login that should be there is not."""
        if self._problem and failure.kind in AUTHORITATIVE:
            return failure.adding(self._problem)
        return failure

    def status_line(self, response: Response) -> str:
        """The answer's, with who gave it where that is not the host that was meant."""
        direct = self._place.foreign and response.redirected_to is None
        line = response.status_line
        return f"{line} from {self._place.host.authority}" if direct else line

    async def explanation(self, response: Response) -> tuple[tuple[str, ...], str]:
        """Error codes and a short text of why an answer refuses: its body's, else what its
        challenges say (RFC 6750, 3). Raises `HostFailure`."""
        limit = self._means.limits.error_body_bytes
        codes, text = await response.describe_error(limit, self.secrets)
        if not text:
            headers = response.headers.getall("WWW-Authenticate", ())
            text = response.quoted(reason_of(parse_challenges(headers)), self.secrets)
        return codes, text

    async def _prepare(self) -> Grant | None:
        """What the host wanted before, renewed where it has expired: some answer those who show
        nothing with what looks final."""
        key = self._place.key(self._access)
        grant = self._means.grants.usable(key)
        challenges = self._means.grants.challenges(key)
        if grant is not None or not challenges:
            return grant
        try:
            grant = await self._meet(challenges)
        except HostFailure as failure:
            self._means.grants.forget(key)  # it may want something else by now, or nothing
            if failure.retryable:
                raise
            return None
        self._is_new(challenges)
        return grant

    async def _send(self) -> Response:
        place = self._place
        own: CIMultiDict[str] = CIMultiDict(place.host.headers)
        if place.host.trace_context and self._access.activity.traceparent:
            own["traceparent"] = self._access.activity.traceparent
        request = Request(
            place.url,
            place.host,
            self._method,
            headers=self._headers,
            own_headers=own,
            signed=place.foreign,
        )
        if self._grant is not None:
            self.secrets.extend(self._grant.authorization.secrets)
            for name, value in self._grant.authorization.headers(request).items():
                own[name] = value
        return await self._means.transport.send(request)

    async def _follow_up(self, response: Response) -> bool:
        """Whether to ask again, with another grant or at another place."""
        came_from = self._place.after(response)
        moved = came_from is not self._place
        shown = None if came_from.foreign and moved else self._grant
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
        if response.status == 401 and shown is not None:
            self._means.grants.drop(self._place.key(self._access), shown)
        if response.status == 401 and challenges:
            if moved:
                self._move(came_from)
                return True
            return await self._answer(challenges, response)
        if came_from.foreign:
            return False
        self._place = came_from
        if shown is not None:
            return await self._renew(shown, refused=response.status == 401)
        return await self._seek(challenges)

    def _move(self, place: Place) -> None:
        """Ask where the redirect led from now on, with what that was content with before."""
        self._place = place
        self._grant = self._means.grants.usable(place.key(self._access))

    async def _answer(self, challenges: tuple[Challenge, ...], response: Response) -> bool:
        if not self._is_new(challenges):
            return False
        codes, text = await self.explanation(response)
        self._grant = await self._meet(challenges)
        if self._grant is not None or await self._seek(()):
            return True
        login = await self._login()
        given = "no credentials were given" if login.anonymous else "the credentials do not fit"
        asked = ", ".join(sorted({challenge.scheme[:20] for challenge in challenges})[:5])
        shown = f" ({text})" if text else ""
        raise HostFailure(
            Kind.UNAUTHENTICATED,
            f"{self.status_line(response)}{shown}, asks for {asked} authentication; {given}",
            status=401,
            codes=codes,
        )

    async def _renew(self, shown: Grant, *, refused: bool) -> bool:
        """A denial may be older than a permission: what an earlier pull was granted is made once
        more. What is `refused` without a challenge has ended early, where an earlier request had
        it."""
        if self._renewed or shown.made >= (self._began if refused else self._access.began):
            return False
        self._renewed = True
        self._means.grants.drop(self._place.key(self._access), shown)
        made = self._grant = await self._try_to_meet(shown.challenges)
        is_same = made is not None and made.authorization == shown.authorization
        if made is not None and is_same and refused:
            self._means.grants.drop(self._place.key(self._access), made)
        return made is not None and not is_same

    async def _seek(self, challenges: tuple[Challenge, ...]) -> bool:
        """A login is at hand, and the host denies without saying how to log in: ask it once."""
        if self._sought or self._place.foreign or (await self._login()).anonymous:
            return False
        self._sought = True
        if challenges:
            self._grant = await self._try_to_meet(challenges)
        if self._grant is None and (challenges := await self._ping()):
            self._grant = await self._try_to_meet(challenges)
        if self._grant is not None:
            self._is_new(challenges)
        return self._grant is not None

    async def _ping(self) -> tuple[Challenge, ...]:
        """The challenges of the API's root."""
        host = self._place.host
        root = api_url(host, "", self._access.registry)
        try:
            response = await self._means.transport.send(
                Request(root, host, own_headers=CIMultiDict(host.headers))
            )
        except HostFailure:
            return ()
        response.close()
        if response.status not in (401, 403) or response.redirected_to is not None:
            return ()
        return parse_challenges(response.headers.getall("WWW-Authenticate", ()))

    async def _try_to_meet(self, challenges: tuple[Challenge, ...]) -> Grant | None:
        """As `_meet`, where the answer that is there already tells more than a refusal."""
        try:
            return await self._meet(challenges)
        except HostFailure as failure:
            if failure.retryable:
                raise
            return None

    async def _meet(self, challenges: tuple[Challenge, ...]) -> Grant | None:
        """What the preferred scheme makes of its challenge; None where none can do anything."""
        login = await self._login()
        asked = Asked(self._place.host, self._access.scope(self._place.host), login)
        key = self._place.key(self._access)
        async with self._means.grants.lock(key):
            grant = self._means.grants.usable(key)  # made by another pull meanwhile
            if grant is not None:
                return grant
            for name, scheme in self._means.schemes.items():
                for challenge in challenges:
                    if challenge.scheme != name:
                        continue
                    authorization = await scheme.meet(challenge, asked)
                    if authorization is not None:
                        return self._means.grants.put(key, challenges, authorization)
        return None

    def _is_new(self, challenges: tuple[Challenge, ...]) -> bool:
        """Whether these were not met before; they count as met from now on."""
        here = self._place.url.origin(), repr(challenges)
        if here in self._met:
            return False
        self._met.add(here)
        return True

    async def _login(self) -> Login:
        place = self._place
        login = self._logins.get(place.known_as)
        if login is None:
            login = self._logins[place.known_as] = await place.logins.login(place.known_as)
            self.secrets.extend(login.secrets)
            self._problem = login.problem
        return login
