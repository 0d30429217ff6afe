"""What `registry` gives to the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from cri_imaged.errors import Attempt
from cri_imaged.limits import ACCOUNT_FAILURES
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.ports.values import Credentials, Priority


class Activity:
    """What the requests of one pull do, for those who judge whether it gets on."""

    def __init__(
        self,
        traceparent: str = "",
        priority: Priority = Priority.CLIENT,
        groups: tuple[Hashable, ...] = (),
    ) -> None:
        """`traceparent`: the pull's trace (W3C Trace Context), for hosts that are to know it.
        `groups`: those that the pull counts to where turns are given, widest first."""
        self.traceparent = traceparent
        self.priority = priority
        self.groups = groups
        self.received = 0
        """Bytes of bodies, those of other pulls' fetches that this one shares among them."""
        self._waiting: Counter[str] = Counter()

    @property
    def hosts(self) -> list[str]:
        """Whom a request waits for now, for an answer or for more of it."""
        return sorted(+self._waiting)

    @contextmanager
    def waiting(self, host: str) -> Iterator[None]:
        """A request waits for `host` while the context lasts."""
        self._waiting[host] += 1
        try:
            yield
        finally:
            self._waiting[host] -= 1

    def count(self, size: int) -> None:
        """So many bytes came."""
        self.received += size

    def awaited_by(self, other: Activity) -> None:
        """Another pull waits for what this one does: that has the other's priority from now on,
        where it had a lower one, else who goes first would wait for who gives way."""
        self.priority = min(self.priority, other.priority)


class Sharers:
    """The pulls that want one piece of work, whoever began it. More may come."""

    def __init__(self, *pulls: Activity) -> None:
        self.pulls = list(pulls)
        """One of each that count to the same groups: they have their turn together."""
        self._told: list[Callable[[], object]] = []

    @property
    def priority(self) -> Priority:
        """Of whoever goes first among them."""
        return min((pull.priority for pull in self.pulls), default=Priority.CLIENT)

    def join(self, pull: Activity) -> None:
        """One more wants it."""
        if all(pull.groups != other.groups for other in self.pulls):
            self.pulls.append(pull)
            for tell in self._told:
                tell()

    @contextmanager
    def telling(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` whenever there are more, while the context lasts."""
        self._told.append(tell)
        try:
            yield
        finally:
            self._told.remove(tell)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a registry says of how often it may be asked."""

    most: int
    """Pulls that it allows in its period."""
    left: int


class RequestCounter(Protocol):
    """Is told of every request to a host of a registry, or to where it redirects."""

    def answered(self, host: str, status: int | None, limit: RateLimit | None) -> None:
        """`host` (and port) answered, or did not: then `status` is None."""
        ...

    def retried(self, host: str) -> None:
        """`host` is asked once more, as a request to it has failed."""
        ...


@dataclass(slots=True)
class Account:
    """Who served, and who failed, for one purpose."""

    hosts: dict[str, int] = field(default_factory=dict)
    """Bytes that came from each host that answered; 0 where nothing but its answer was wanted."""
    failures: list[Attempt] = field(default_factory=list)
    """The first ones, at most `ACCOUNT_FAILURES`."""
    failed: int = 0
    """How many there were in all."""

    def answered(self, host: str, size: int = 0) -> None:
        """`host` has answered, with so many bytes (more)."""
        self.hosts[host] = self.hosts.get(host, 0) + size

    def count(self, failure: Attempt) -> None:
        """One more request has failed."""
        self.failed += 1
        if len(self.failures) < ACCOUNT_FAILURES:
            self.failures.append(failure)


class ByteStream(Protocol):
    """A blob's or manifest's bytes from some offset to its end, resumed across hosts as needed."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks of any size. Ends at the content's end; raises `RegistryError` where no host
        could deliver the rest."""
        ...

    def discredit(self) -> None:
        """Say that what this stream delivered was wrong: the hosts it came from are not asked
        again through this fetcher, and are named in the log."""
        ...


class Fetcher(Protocol):
    """Fetches what one resolved reference is made of, from the hosts that may serve it."""

    async def has(self, descriptor: Descriptor) -> bool:
        """Whether a host answers a HEAD for this content with 200. Any other answer, or none, says
        nothing: ask with `fetch`."""
        ...

    async def size(self, digest: Digest) -> int:
        """Bytes of a blob of which nothing but its digest is known, as a host says.

        Raises:
            RegistryError: no host has it, says it, may give it to us, or can be reached.
        """
        ...

    def account(self, digest: Digest) -> Account:
        """Who served, or failed to, what was fetched of it by this fetcher so far."""
        ...

    def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractAsyncContextManager[ByteStream]:
        """Open `descriptor`'s bytes from `offset`. Its `urls` are honoured for foreign layers.

        Raises:
            RegistryError: no host has it, may give it to us, or can be reached.
        """
        ...

    def referrers(self, subject: Digest) -> AsyncGenerator[BinaryIO, None]:
        """Indexes of the manifests that refer to `subject`, as a host lists them, page by page and
        each to be closed; none where no host lists any. Nobody vouches for them.

        Raises:
            RegistryError: no host may tell us, or can be reached.
            LimitExceededError: one is larger than `Limits.manifest_bytes`, or they are too many.
        """
        ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference stands for now, as the registry says with the caller's credentials."""

    descriptor: Descriptor
    document: BinaryIO | None
    """The manifest or index, verified against `descriptor`, in a file that whoever has it closes,
    in a thread; None where that is what was known already."""
    fetcher: Fetcher
    account: Account
    """Of the resolving."""


class Registries(Protocol):
    """What registries tell people."""

    async def tags(self, repository: Reference, credentials: Credentials | None) -> list[str]:
        """The tags of a repository, in the registry's order.

        Raises:
            RegistryError: unknown, not permitted, or no host could be reached.
            CorruptContentError: what is no list of tags.
            LimitExceededError: more than `TAGS`.
            ConfigError: a `hosts.toml` that matters here is malformed.
        """
        ...

    @property
    def login_file(self) -> str:
        """The Docker config.json that the node's own logins are read from; "": there is none."""
        ...

    async def enter(self, registry: str, credentials: Credentials) -> bool:
        """Log in to `registry` (`host[:port]`), and keep nothing. Tells whether it wanted a login.

        Raises:
            InvalidRequestError: the credentials are malformed.
            RegistryError: it does not take them, or cannot be reached.
            ConfigError: a `hosts.toml` that matters here is malformed.
        """
        ...


class Resolver(Protocol):
    """Asks the registry what a reference means, always with the caller's own credentials."""

    async def resolve(
        self,
        reference: Reference,
        credentials: Credentials | None,
        known: Descriptor | None = None,
        activity: Activity | None = None,
    ) -> Resolved:
        """Resolve `reference`. Where it still stands for `known`, what it stood for when it was
        last pulled, that is the answer, and the document is not fetched again. All requests, those
        of the fetcher too, show in `activity`.

        Raises:
            RegistryError: unknown, not permitted, or no host could be reached.
            CorruptContentError: the document does not match the digest asked for.
            LimitExceededError: the document is larger than `Limits.manifest_bytes`.
            ConfigError: a `hosts.toml` that matters here is malformed.
        """
        ...
