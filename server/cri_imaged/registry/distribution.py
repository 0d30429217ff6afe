"""The distribution client: the registry room's one entry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType

from cri_imaged.budget import MemoryBudget
from cri_imaged.errors import ConfigError, ImagedError, InvalidRequestError
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Account, Activity, Credentials, RequestCounter, Resolved
from cri_imaged.registry.auth.access import Access
from cri_imaged.registry.auth.authorizer import Authorizer
from cri_imaged.registry.auth.bearer import Bearer
from cri_imaged.registry.auth.exchange import Means
from cri_imaged.registry.auth.grants import GrantCache
from cri_imaged.registry.auth.keyring import Keyring
from cri_imaged.registry.auth.schemes import Basic, Schemes
from cri_imaged.registry.fetcher import RegistryFetcher
from cri_imaged.registry.hosts.directory import HostsDirectory
from cri_imaged.registry.hosts.host import Capability, Host, capable, is_authority
from cri_imaged.registry.hosts.reading import reading
from cri_imaged.registry.http.telemetry import Telemetry
from cri_imaged.registry.http.transport import Transport
from cri_imaged.registry.inquiry import Inquiry
from cri_imaged.registry.options import RegistryOptions
from cri_imaged.registry.patience import Patience
from cri_imaged.registry.retry import RetryPolicy
from cri_imaged.registry.session import Chunks, Session
from cri_imaged.registry.tags import TagList
from cri_imaged.registry.tries import HostHealth, Tries
from cri_imaged.spool import Spools


class DistributionClient:
    """Implements `ports.Resolver` and `ports.Registries`. An async context manager that owns the
    connections."""

    def __init__(
        self,
        options: RegistryOptions,
        limits: Limits,
        *,
        policy: RetryPolicy | None = None,
        environ: Mapping[str, str] = os.environ,
        schemes: Schemes | None = None,
        spools: Spools | None = None,
        counter: RequestCounter | None = None,
    ) -> None:
        """`schemes` are ways to authenticate besides bearer and Basic, and preferred to them.
        `counter` is told of requests.

        Raises:
            ConfigError: the options, or the proxies in `environ`, are unusable.
        """
        self._telemetry = Telemetry(counter)
        self._transport = Transport(
            limits, options.response_header_timeout, environ, self._telemetry
        )
        spools = spools or Spools(MemoryBudget(limits.memory_bytes), None)
        bearer = Bearer(self._transport, limits, spools)
        known = {**(schemes or {}), "bearer": bearer, "basic": Basic()}
        self._session = Session(
            transport=self._transport,
            authorizer=Authorizer(Means(self._transport, known, GrantCache(), limits)),
            health=HostHealth(telemetry=self._telemetry),
            policy=policy or RetryPolicy.of(limits),
            patience=Patience(options.stall_timeout, options.min_rate_bytes_per_second),
            chunks=Chunks(
                options.concurrent_layer_fetch_buffer, options.concurrent_layer_fetch_requests
            ),
            spools=spools,
        )
        self.traffic = self._transport.traffic
        """What comes over all connections, and how fast it may."""
        self._limits = limits
        self.configure(options)

    def configure(self, options: RegistryOptions) -> None:
        """Ask the hosts, and hold the logins, of `options` from the next pull on; what of them
        concerns connections stays as it was.

        Raises:
            ConfigError: a login is malformed; nothing has changed.
        """
        keyring = Keyring(options)
        self._directory = HostsDirectory(options.config_path, options.headers)
        self._keyring = keyring

    def registries(self) -> set[str]:
        """Those that have a folder in `config_path`. Reads directories."""
        return self._directory.configured()

    def hosts(self, registries: Iterable[str]) -> set[str]:
        """The hosts of these registries, with their ports where they are configured; those of what
        is malformed are left out. Reads files."""
        found: set[str] = set()
        for registry in registries:
            with suppress(ImagedError):
                found.update(host.authority for host in self._directory.hosts(registry))
        return found

    async def __aenter__(self) -> DistributionClient:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)

    async def resolve(
        self,
        reference: Reference,
        credentials: Credentials | None,
        known: Descriptor | None = None,
        activity: Activity | None = None,
    ) -> Resolved:
        """See `ports.Resolver.resolve`."""
        reference = reference.canonical()
        access, hosts = await self._asking(reference, credentials, activity)
        resolvers = _resolvers(hosts, reference)
        account = Account()
        tries = Tries(
            resolvers,
            f"cannot resolve {reference}",
            self._session.policy,
            self._session.health,
            account,
        )
        inquiry = Inquiry(self._session, reference, access, known, self._limits)
        descriptor, document = await tries.run(inquiry.ask, inquiry.url)
        fetcher = RegistryFetcher(
            self._session,
            capable(hosts, Capability.PULL),
            access,
            self._limits.manifest_bytes,
        )
        return Resolved(descriptor, document, fetcher, account)

    async def tags(self, repository: Reference, credentials: Credentials | None) -> list[str]:
        """See `ports.Registries.tags`."""
        reference = repository.canonical()
        access, hosts = await self._asking(reference, credentials)
        return await TagList(self._session, access, _resolvers(hosts, reference)).read()

    @property
    def login_file(self) -> str:
        """See `ports.Registries.login_file`."""
        return self._keyring.login_file

    async def enter(self, registry: str, credentials: Credentials) -> bool:
        """See `ports.Registries.enter`."""
        access, hosts = await self._asking(Reference(registry, ""), credentials)
        _refuse_no_host(registry, hosts, f"login to {registry}")
        own = [host for host in hosts if not host.is_proxy_for(registry)]
        tries = Tries(
            own or hosts[-1:],
            f"cannot log in to {registry}",
            self._session.policy,
            self._session.health,
        )
        return await tries.run(
            lambda host: self._session.authorizer.enter(host, access), lambda host: host.url("")
        )

    async def _asking(
        self,
        reference: Reference,
        credentials: Credentials | None,
        activity: Activity | None = None,
    ) -> tuple[Access, tuple[Host, ...]]:
        """On whose behalf, and the hosts that are configured for the reference's registry."""
        registry, keyring, directory = reference.registry, self._keyring, self._directory
        logins, hosts = await reading(
            lambda: (keyring.for_request(reference, credentials), directory.hosts(registry))
        )
        access = Access(registry, reference.repository, logins, activity or Activity())
        return access, self._telemetry.in_order(hosts)


def _resolvers(hosts: tuple[Host, ...], reference: Reference) -> tuple[Host, ...]:
    """The hosts that may say what `reference` stands for: whoever may be pulled from, where it
    says itself which digest it means.

    Raises:
        InvalidRequestError: its registry is no host that there could be.
        ConfigError: no host may.
    """
    wanted = Capability.PULL
    if reference.digest is None:
        wanted |= Capability.RESOLVE
    found = capable(hosts, wanted)
    if not found:
        raise ConfigError(
            f"hosts.toml leaves no host of {reference.registry} that may resolve {reference}"
        )
    _refuse_no_host(reference.registry, hosts, f"image reference {reference}")
    return found


def _refuse_no_host(registry: str, hosts: tuple[Host, ...], what: str) -> None:
    """Raises `InvalidRequestError`, about `what`, where a registry would itself be asked and is no
    host that there could be."""
    itself = any(host.authority == registry for host in hosts)
    if itself and not is_authority(registry):
        raise InvalidRequestError(f"{what}: there can be no host {registry}")
