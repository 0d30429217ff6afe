"""Whose credentials a host is offered: the request's, or the node's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cri_imaged.errors import ConfigError, InvalidRequestError
from cri_imaged.oci.authority import canonical_authority
from cri_imaged.oci.reference import Reference
from cri_imaged.ports import Credentials
from cri_imaged.registry.auth.docker_config import DockerConfig, DockerConfigFile
from cri_imaged.registry.auth.login import ANONYMOUS, Login
from cri_imaged.registry.auth.providers import Providers, ProvidersFile
from cri_imaged.registry.auth.scope import LoginScope, authority_of, names_of, nearest
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.options import HostLogin, RegistryOptions


class Keyring:
    """The credentials that the node itself holds: those of its configuration, then Docker's, then
    those that the kubelet's credential providers know."""

    def __init__(self, options: RegistryOptions) -> None:
        """Raises `ConfigError` where a login of the configuration is malformed."""
        self._configured = tuple(
            (LoginScope.of(name), _configured(name, host.auth))
            for name, host in options.configs.items()
            if host.auth is not None
        )
        self.login_file = path = options.docker_config
        """"": there is none."""
        self._docker = DockerConfigFile(Path(path)) if path else None
        path, folder = options.credential_provider_config, options.credential_provider_bin_dir
        self._providers = ProvidersFile(Path(path), Path(folder)) if path else None

    def for_request(self, reference: Reference, credentials: Credentials | None) -> Logins:
        """The logins of one pull. Reads files. Raises `InvalidRequestError` where they are
        malformed."""
        docker = self._docker.read() if self._docker else None
        providers = self._providers.read() if self._providers else None
        node = _NodeLogins(self._configured, docker, providers, reference.repository)
        return Logins(reference.registry, _given(credentials), node)


@dataclass(frozen=True, slots=True)
class _Given:
    """A request's own credentials."""

    login: Login
    authority: str
    """The only host they are for; "" where they name none."""


@dataclass(frozen=True, slots=True)
class _NodeLogins:
    """The node's own, as they were when the pull began."""

    configured: Sequence[tuple[LoginScope, Login]]
    docker: DockerConfig | None
    providers: Providers | None
    repository: str
    """"": one that nobody knows."""
    failed: dict[tuple[Host, str], Login] = field(default_factory=dict)
    """What programs failed to tell, by host and repository: for the same pull they are not asked
    again, as each of them may take a minute."""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def identity(self, host: Host) -> str:
        """Tells apart what `login` gives at different times; no secret. Asks no program."""
        configured = self.of_configuration(host)
        if configured is not None:
            return configured.fingerprint
        docker = f"docker config {self.docker.version}" if self.docker else "anonymous"
        return f"{docker}, providers {self.providers.version}" if self.providers else docker

    async def login(self, host: Host) -> Login:
        """The login for exactly `host`. Raises `ConfigError`."""
        configured = self.of_configuration(host)
        if configured is not None:
            return configured
        async with self.asking:
            found = self.failed.get((host, self.repository)) or await self._told(host)
        if found.problem:
            self.failed[host, self.repository] = found
        return found

    async def _told(self, host: Host) -> Login:
        """What Docker's file and programs say."""
        found = await self.docker.login(host, self.repository) if self.docker else ANONYMOUS
        if not found.anonymous or self.providers is None or not self.repository:
            return found
        image = f"{names_of(host)[0]}/{host.repository(self.repository)}"
        provided = await self.providers.login(image)
        return found if provided.anonymous and found.problem else provided

    def of_configuration(self, host: Host) -> Login | None:
        return nearest(self.configured, host, self.repository)


class Logins:
    """Which login each host is offered on behalf of one request.

    The request's own comes first where it names the host, and at the registry that the reference
    names. Any other host is a mirror: where the node has a login for it, the request's, which was
    meant for the registry, is not shown there.
    """

    def __init__(self, registry: str, given: _Given | None, node: _NodeLogins) -> None:
        self._registry = canonical_authority(registry)
        self._given = given
        self._node = node

    def elsewhere(self) -> Logins:
        """The logins for hosts that nobody configured: never the request's."""
        return Logins(self._registry, None, replace(self._node, repository=""))

    def identity(self, host: Host) -> str:
        """Tells apart whom tokens belong to; no secret. Asks no credential helper."""
        given = self._for(host)
        if given is None:
            return self._node.identity(host)
        if self._is_first(host):
            return given.login.fingerprint
        return f"{self._node.identity(host)}, {given.login.fingerprint}"

    async def login(self, host: Host) -> Login:
        """The login for `host`. Raises `ConfigError`."""
        given = self._for(host)
        if given is not None and self._is_first(host):
            return given.login
        own = await self._node.login(host)
        if given is None or own.problem or not own.anonymous:
            return own
        return given.login

    def _for(self, host: Host) -> _Given | None:
        """The request's own login, where it may be shown to `host`."""
        if self._given is None or self._given.authority not in ("", *names_of(host)):
            return None
        return self._given

    def _is_first(self, host: Host) -> bool:
        """Whether the request's login counts more than the node's."""
        named = self._given is not None and self._given.authority != ""
        return named or self._registry in names_of(host)


def _given(credentials: Credentials | None) -> _Given | None:
    if credentials is None:
        return None
    try:
        login = Login.of(credentials)
    except ValueError as error:
        raise InvalidRequestError(f"credentials of the request: {error}") from None
    if login.anonymous:
        return None
    return _Given(login, authority_of(credentials.server_address))


def _configured(name: str, auth: HostLogin) -> Login:
    try:
        return Login.of(auth)
    except ValueError as error:
        raise ConfigError(f"image.registry.configs.{name}.auth: {error}") from None
