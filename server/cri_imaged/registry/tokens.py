"""Bearer tokens from a registry's token server.

Requests as the distribution project's token specification gives them: GET with Basic credentials
or none, POST (OAuth2) with an identity token, or with user and password where GET is not there.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
from multidict import CIMultiDict
from yarl import URL

from cri_imaged.limits import Limits
from cri_imaged.registry.addresses import is_private, resolves_privately
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts import Host, split_port
from cri_imaged.registry.login import Login
from cri_imaged.registry.retry import TRANSIENT_STATUSES, parse_retry_after
from cri_imaged.registry.transport import Request, Response, Transport, is_http, same_origin

_CLIENT_ID = "cri-imaged"
_DEFAULT_LIFETIME = 60.0
_MARGIN = 0.1
_CACHED_PROOFS = 4096
_DENIALS = {401: Kind.UNAUTHENTICATED, 403: Kind.PERMISSION_DENIED}


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a challenge asks to be shown a token for."""

    realm: str
    service: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """The value of an `Authorization` header, and the monotonic time until which it is used."""

    value: str = field(repr=False)
    expires: float


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


ProofKey = tuple[str, str, str]
"""Host, scope, identity."""


class ProofCache:
    """Proofs by host, scope and identity: those of one identity are never given to another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._proofs: OrderedDict[ProofKey, Proof] = OrderedDict()
        self._locks: weakref.WeakValueDictionary[ProofKey, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    def get(self, key: ProofKey) -> Proof | None:
        """The proof under `key` that has not expired."""
        proof = self._proofs.get(key)
        if proof is not None and proof.expires <= self._clock():
            del self._proofs[key]
            return None
        return proof

    def put(self, key: ProofKey, proof: Proof) -> None:
        """Keep a proof; the oldest go beyond some thousands."""
        self._proofs[key] = proof
        self._proofs.move_to_end(key)
        while len(self._proofs) > _CACHED_PROOFS:
            self._proofs.popitem(last=False)

    def drop(self, key: ProofKey, proof: Proof) -> None:
        """Forget `proof`, unless it has been replaced already."""
        if self._proofs.get(key) is proof:
            del self._proofs[key]

    def lock(self, key: ProofKey) -> asyncio.Lock:
        """Held while a proof is made, so that those who want the same wait for it."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


async def fetch_token(
    transport: Transport, limits: Limits, host: Host, wanted: TokenRequest, login: Login
) -> Proof:
    """Fetch a token for `host`.

    Raises:
        HostFailure: the realm must not be asked, cannot be reached, or refuses.
    """
    scheme = transport.scheme(host)
    realm = _realm(scheme, wanted.realm)
    public_only = not await _private(host)
    if public_only and is_private(realm.host or ""):
        raise _refused(realm, "a private address, but the registry is public")

    async def ask(form: dict[str, str] | None) -> Response:
        own = same_origin(realm, URL(f"{scheme}://{host.authority}"))
        headers: CIMultiDict[str] = CIMultiDict(host.headers if own else ())
        url = realm
        if form is None:
            query = [("service", wanted.service)] if wanted.service else []
            url = realm.extend_query([*query, *(("scope", scope) for scope in wanted.scopes)])
            if login.username:
                headers["Authorization"] = login.basic
        try:
            return await transport.send(
                Request(
                    url,
                    host,
                    method="GET" if form is None else "POST",
                    headers={"Accept": "application/json"},
                    own_headers=headers,
                    form=form,
                    public_only=public_only,
                )
            )
        except HostFailure as failure:
            raise HostFailure(
                failure.kind, f"token server {_shown(realm)}: {failure.outcome}"
            ) from None

    if login.identity_token:
        response = await ask(_form(wanted, login))
    else:
        response = await ask(None)
        if response.status in (404, 405) and login.username:
            response.close()
            response = await ask(_form(wanted, login))
    try:
        return await _read(response, limits, realm, (*login.secrets, *host.secrets))
    finally:
        response.close()


def _form(wanted: TokenRequest, login: Login) -> dict[str, str]:
    form = {"client_id": _CLIENT_ID, "service": wanted.service, "scope": " ".join(wanted.scopes)}
    if login.identity_token:
        return {**form, "grant_type": "refresh_token", "refresh_token": login.identity_token}
    return {
        **form,
        "grant_type": "password",
        "username": login.username,
        "password": login.password,
    }


async def _read(response: Response, limits: Limits, realm: URL, secrets: Iterable[str]) -> Proof:
    where = f"token server {_shown(realm)}"
    if response.status != 200:
        codes, text = await response.describe_error(limits.error_body_bytes, secrets)
        shown = f": {text}" if text else ""
        transient = response.status in TRANSIENT_STATUSES
        raise HostFailure(
            _DENIALS.get(response.status, Kind.UNREACHABLE if transient else Kind.REFUSED),
            f"{where} answered {response.status_line}{shown}",
            status=response.status,
            codes=codes,
            retry_after=parse_retry_after(response.headers.get("Retry-After"), time.time()),
        )
    body = await response.read_all(limits.token_bytes)
    if body is None:
        raise HostFailure(
            Kind.REFUSED, f"{where} sent more than {limits.token_bytes} bytes, the limit of a token"
        )
    try:
        answer = msgspec.json.decode(body, type=_Answer, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise HostFailure(Kind.REFUSED, f"{where} answered with something else than JSON") from None
    value = answer.token or answer.access_token
    if not value:
        raise HostFailure(Kind.REFUSED, f"{where} answered without a token")
    if not (value.isascii() and value.isprintable()):
        raise HostFailure(Kind.REFUSED, f"{where} answered with a malformed token")
    lifetime = answer.expires_in if answer.expires_in and answer.expires_in > 0 else None
    seconds = (lifetime or _DEFAULT_LIFETIME) * (1 - _MARGIN)
    return Proof(f"Bearer {value}", time.monotonic() + seconds)


def _realm(scheme: str, text: str) -> URL:
    try:
        realm = URL(text)
        usable = is_http(realm)
    except ValueError:
        raise HostFailure(Kind.REFUSED, "asks for a token from a malformed realm") from None
    if not usable:
        raise HostFailure(Kind.REFUSED, "asks for a token from a realm that is no http(s) URL")
    if realm.user is not None:
        raise HostFailure(Kind.REFUSED, "asks for a token from a realm with user information")
    if realm.scheme == "http" and scheme != "http":
        raise _refused(realm, "plain http, but the registry is https")
    return realm.with_fragment(None)


def _refused(realm: URL, why: str) -> HostFailure:
    return HostFailure(Kind.REFUSED, f"asks for a token from {_shown(realm)}: refused, {why}")


def _shown(realm: URL) -> str:
    return f"{realm.host_subcomponent}:{realm.port}"


async def _private(host: Host) -> bool:
    return await resolves_privately(split_port(host.authority)[0])
