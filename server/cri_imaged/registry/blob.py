"""One content, blob or manifest, as it is asked of every host that may have it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from yarl import URL

from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.auth.authorizer import GIVEN
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.request import Request, is_http
from cri_imaged.registry.http.response import Response
from cri_imaged.registry.ranges import check_range, check_whole
from cri_imaged.registry.retry import TRANSIENT_STATUSES
from cri_imaged.registry.session import Session
from cri_imaged.registry.tries import HostHealth, Tries

log = structlog.get_logger()
_FOREIGN_URLS = 5
_TOO_MANY = 429
_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A body that is about to come."""

    response: Response
    skip: int
    """Bytes at its begin that were not asked for."""
    to_a_range: bool = False
    """Whether a range was asked for, whatever was given."""
    ranged: bool = False
    """Whether it is the range that was asked for, and nothing else."""


@contextmanager
def _closed_on_failure(response: Response) -> Iterator[None]:
    try:
        yield
    except HostFailure:
        response.close()
        raise


class Discredited:
    """The hosts that delivered something wrong: one fetcher does not ask them again. Nor does it
    ask for ranges of what turned out wrong when it was put together from several answers."""

    def __init__(self, health: HostHealth) -> None:
        self._health = health
        self._hosts: set[Host] = set()
        self._whole_only: set[Digest] = set()
        self._otherwise: set[tuple[Digest, Host]] = set()

    def __contains__(self, host: Host) -> bool:
        return host in self._hosts

    def whole_only(self, descriptor: Descriptor) -> bool:
        """Whether no range of it is to be asked for."""
        return descriptor.digest in self._whole_only

    def otherwise(self, descriptor: Descriptor) -> frozenset[Host]:
        """Whose content coding of it is to be read in another way than it seems."""
        return frozenset(host for digest, host in self._otherwise if digest == descriptor.digest)

    def read_otherwise(self, descriptor: Descriptor, hosts: Sequence[Host]) -> None:
        """What `hosts` delivered in a content coding is not `descriptor` in the way that it was
        read; in the other one it may be."""
        self._otherwise.update((descriptor.digest, host) for host in hosts)

    def add(self, descriptor: Descriptor, hosts: Sequence[Host]) -> None:
        """`hosts` delivered something else than `descriptor`."""
        new = [host for host in hosts if host not in self._hosts]
        self._hosts.update(new)
        for host in new:
            self._health.failed(host)
        if new:
            _tell(descriptor, new)

    def add_ranges(self, descriptor: Descriptor, hosts: Sequence[Host]) -> None:
        """Answers of `hosts` to ranges do not make `descriptor` together. Which one is wrong shows
        when each is asked for the whole."""
        if descriptor.digest not in self._whole_only:
            self._whole_only.add(descriptor.digest)
            _tell(descriptor, hosts)


def _tell(descriptor: Descriptor, hosts: Sequence[Host]) -> None:
    log.warning(
        "registry sent wrong bytes",
        digest=descriptor.digest,
        hosts=[host.authority for host in hosts],
    )


class BlobRequest:
    """Asks for one content, from any offset, any host."""

    def __init__(
        self,
        session: Session,
        access: Access,
        hosts: Sequence[Host],
        descriptor: Descriptor,
        discredited: Discredited,
        account: Account,
    ) -> None:
        """`hosts` are those of the registry, itself the last."""
        self.account = account
        self._session = session
        self._access = access
        self._registry = hosts[-1]
        self._foreign = _foreign(descriptor)
        self._discredited = discredited
        self.descriptor = descriptor
        self.hosts = [host for host in (*self._foreign, *hosts) if host not in discredited]
        self.what = (
            f"cannot fetch {descriptor.digest} of {self._access.registry}/{access.repository}"
        )
        kind = "manifests" if descriptor.media_type in media_types.DOCUMENTS else "blobs"
        self._thing = f"{kind}/{descriptor.digest}"
        self._unanswered: set[Host] = set()
        """Who did not answer when last asked for a range."""
        self._slowed_down: set[Host] = set()
        """Who asked for a pause instead."""
        self._barren: set[Host] = set(self.hosts if discredited.whole_only(descriptor) else ())
        self._coded: set[Host] = set()
        """Who gave it in a content coding."""
        self._otherwise = discredited.otherwise(descriptor)
        self._headers: dict[str, str] = {}
        if kind == "manifests":
            self._headers["Accept"] = f"{descriptor.media_type}, */*"

    def tries(self) -> Tries:
        """A budget of tries for one stream of it."""
        session = self._session
        return Tries(self.hosts, self.what, session.policy, session.health, self.account)

    def url(self, host: Host) -> str:
        """Where it is at `host`, for reports."""
        foreign = self._foreign.get(host)
        if foreign is not None:
            return str(foreign.with_query(None))
        return host.url(self._access.path(host, self._thing))

    def discredit(self, hosts: Sequence[Host], *, of_ranges: bool) -> None:
        """`hosts` delivered something else, in answers to ranges among others or not."""
        doubted = [host for host in hosts if host in self._coded - self._otherwise]
        if doubted:
            self._discredited.read_otherwise(self.descriptor, doubted)
        elif of_ranges:
            self._discredited.add_ranges(self.descriptor, hosts)
        else:
            self._discredited.add(self.descriptor, hosts)

    def doubt(self, host: Host) -> None:
        """`host` promised a range and brought nothing of it: ask it for the whole from now on."""
        self._barren.add(host)

    async def exists(self, host: Host) -> bool:
        """Whether `host` of the registry answers a HEAD with 200. Raises `HostFailure`."""
        headers = await self._session.authorizer.head(
            host, self._thing, self._access, self._headers
        )
        return headers is not None

    async def size(self, host: Host) -> int:
        """How many bytes `host` of the registry says in a HEAD's answer that it has of it. Raises
        `HostFailure`."""
        headers = await self._session.authorizer.head(
            host, self._thing, self._access, self._headers
        )
        length = headers.get("Content-Length", "") if headers is not None else ""
        if not (length.isascii() and length.isdecimal()):
            raise HostFailure(Kind.REFUSED, "does not tell the size by a HEAD")
        return int(length)

    async def open(self, host: Host, start: int, end: int | None) -> Opened:
        """Ask `host` for the bytes from `start` up to `end`, None: the content's.

        A host that refuses a range, or answers with something else, is asked for the whole: what
        is on disk must not make a pull fail that would succeed without it. What it says to that
        is what counts.

        Raises:
            HostFailure: it does not give the content.
        """
        if (not start and end is None) or host in self._barren:
            return await self._whole(host, start)
        busy = host in self._unanswered
        if not busy:
            try:
                return await self._range(host, start, end)
            except HostFailure as refused:
                self._wait_first(host, refused)
                busy = refused.status in TRANSIENT_STATUSES
        whole = await self._whole(host, start)
        if not busy:
            return whole
        try:
            ranged = await self._range_after_all(host, start, end)
        except BaseException:
            whole.response.close()
            raise
        if ranged is None:
            return whole
        whole.response.close()
        return ranged

    def _wait_first(self, host: Host, refused: HostFailure) -> None:
        """Raise `refused` where `host` did not answer, or asks for a pause for the first time:
        then it is not asked for the whole at once."""
        if refused.status == _TOO_MANY and host not in self._slowed_down:
            self._slowed_down.add(host)
            raise refused
        if refused.status is None and refused.retryable:
            self._unanswered.add(host)
            raise refused

    async def _range_after_all(self, host: Host, start: int, end: int | None) -> Opened | None:
        """The range from a host that was away for a moment, it seems: it may save gigabytes."""
        try:
            async with asyncio.timeout(_AGAIN_SECONDS):
                ranged = await self._range(host, start, end)
        except (HostFailure, TimeoutError):
            return None
        self._unanswered.discard(host)
        return ranged

    async def _whole(self, host: Host, start: int) -> Opened:
        response = await self._get(host, {})
        self._expect(response, host)
        with _closed_on_failure(response):
            check_whole(response.status, response.headers, self.descriptor.size)
        return Opened(response, skip=start)

    async def _range(self, host: Host, start: int, end: int | None) -> Opened:
        size = self.descriptor.size
        last = "" if end is None else end - 1
        response = await self._get(host, {"Range": f"bytes={start}-{last}"})
        self._expect(response, host)
        with _closed_on_failure(response):
            if response.status == 206:
                check_range(response.headers, start, end or size, size)
                return Opened(response, skip=0, to_a_range=True, ranged=True)
            check_whole(response.status, response.headers, size)
        return Opened(response, skip=start, to_a_range=True)

    def _expect(self, response: Response, host: Host) -> None:
        response.expect_size(self.descriptor.size, otherwise=host in self._otherwise)
        if response.is_coded:
            self._coded.add(host)

    async def _get(self, host: Host, headers: Mapping[str, str]) -> Response:
        headers = {**self._headers, **headers}
        if host in self._foreign:
            return await self._get_foreign(host, self._foreign[host], headers)
        return await self._session.authorizer.get(host, self._thing, self._access, headers)

    async def _get_foreign(self, host: Host, url: URL, headers: Mapping[str, str]) -> Response:
        """A foreign layer's own URL: without credentials, and under the rules of token realms."""
        transport = self._session.transport
        if url.scheme == "http" and transport.scheme(self._registry) != "http":
            raise HostFailure(Kind.REFUSED, "plain http, but the registry is https")
        public_only = transport.is_public(self._registry)
        activity = self._access.activity
        with activity.waiting(host.authority):
            response = await transport.send(
                Request(url, host, headers=headers, public_only=public_only, signed=True)
            )
        response.show_in(activity)
        if response.status in GIVEN:
            return response
        response.close()
        raise HostFailure(Kind.REFUSED, response.status_line, status=response.status)


def _foreign(descriptor: Descriptor) -> dict[Host, URL]:
    """The places outside of the registry that a foreign layer may be fetched from."""
    found: dict[Host, URL] = {}
    if descriptor.media_type in media_types.FOREIGN_LAYERS:
        for text in descriptor.urls[:_FOREIGN_URLS]:
            try:
                url = URL(text, encoded=True).with_user(None)
                usable = is_http(url)
            except ValueError:
                continue
            if usable:
                host = Host(url.scheme, f"{url.host_subcomponent}:{url.port}", url.raw_path)
                found.setdefault(host, url)
    return found
