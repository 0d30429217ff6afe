"""Whose credentials a host is offered: AuthConfig, then configuration, then Docker's config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cri_imaged.errors import ConfigError, InvalidRequestError
from cri_imaged.ports import Credentials
from cri_imaged.registry.docker_config import DockerConfig
from cri_imaged.registry.hosts import Host, canonical_authority
from cri_imaged.registry.login import ANONYMOUS, Login
from cri_imaged.registry.options import HostLogin, RegistryOptions


@dataclass(frozen=True, slots=True)
class _Given:
    """A request's own credentials."""

    login: Login
    authority: str
    """The only host they are for; "" where they name none."""


class Keyring:
    """The credentials that the node itself holds."""

    def __init__(self, options: RegistryOptions) -> None:
        """Raises `ConfigError` where a login of the configuration is malformed."""
        self._configured = {
            _authority(name): _configured(name, host.auth)
            for name, host in options.configs.items()
            if host.auth is not None
        }
        self._docker = DockerConfig(Path(options.docker_config)) if options.docker_config else None

    def for_request(self, credentials: Credentials | None) -> Logins:
        """The logins of one request. Raises `InvalidRequestError` where they are malformed."""
        return Logins(self, _given(credentials))

    def identity(self, host: Host) -> str:
        """Tells apart what `login` gives for `host` at different times."""
        configured = self._for(host)
        if configured is not None:
            return configured.fingerprint
        return f"docker config {self._docker.version}" if self._docker else "anonymous"

    async def login(self, host: Host) -> Login:
        """The node's own login for `host`. Raises `ConfigError`."""
        configured = self._for(host)
        if configured is not None:
            return configured
        if self._docker is None:
            return ANONYMOUS
        return await self._docker.login(canonical_authority(host.authority, host.scheme))

    def _for(self, host: Host) -> Login | None:
        for name in _names(host):
            if name in self._configured:
                return self._configured[name]
        return None


class Logins:
    """Which login each host is offered on behalf of one request."""

    def __init__(self, keyring: Keyring, given: _Given | None) -> None:
        self._keyring = keyring
        self._given = given

    def identity(self, host: Host) -> str:
        """Tells apart whom tokens belong to; no secret. Asks no credential helper."""
        given = self._for(host)
        return given.fingerprint if given else self._keyring.identity(host)

    async def login(self, host: Host) -> Login:
        """The login for `host`. Raises `ConfigError`."""
        return self._for(host) or await self._keyring.login(host)

    def _for(self, host: Host) -> Login | None:
        if self._given is None or self._given.authority not in ("", *_names(host)):
            return None
        return self._given.login


def _given(credentials: Credentials | None) -> _Given | None:
    if credentials is None:
        return None
    try:
        login = Login.choose(
            username=credentials.username,
            password=credentials.password,
            auth=credentials.auth,
            identity_token=credentials.identity_token,
            registry_token=credentials.registry_token,
        )
    except ValueError as error:
        raise InvalidRequestError(f"credentials of the request: {error}") from None
    if login.anonymous:
        return None
    return _Given(login, _authority(credentials.server_address))


def _configured(name: str, auth: HostLogin) -> Login:
    try:
        return Login.choose(
            username=auth.username,
            password=auth.password,
            auth=auth.auth,
            identity_token=auth.identitytoken,
            registry_token=auth.registrytoken,
        )
    except ValueError as error:
        raise ConfigError(f"image.registry.configs.{name}.auth: {error}") from None


def _names(host: Host) -> tuple[str, str]:
    """What credentials may call `host`: the port of its scheme may be left out."""
    return canonical_authority(host.authority, host.scheme), host.authority.lower()


def _authority(address: str) -> str:
    """The canonical authority of a server address, bare or a URL."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "https", address
    authority = rest.partition("/")[0].rpartition("@")[2]
    return canonical_authority(authority, scheme)
