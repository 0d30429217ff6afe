"""Docker's `config.json`: logins by host, and which credential helper knows which host's.

Lookup as Docker's: the host's entry in `credHelpers`, else `credsStore`, else `auths`, where a key
may name repositories as well, as podman's and CRI-O's `auth.json` have it. Null stands for absence,
as every client in Go has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from cri_imaged.errors import ConfigError
from cri_imaged.oci import lenient_json
from cri_imaged.oci.reference import DOCKER_HUB
from cri_imaged.ports import Auth
from cri_imaged.registry.auth.helper import HelperError, ask_helper
from cri_imaged.registry.auth.login import ANONYMOUS, Login
from cri_imaged.registry.auth.scope import HUB_KEY, LoginScope, authority_of, names_of, nearest
from cri_imaged.registry.hosts.host import Host

log = structlog.get_logger()


class _Config(msgspec.Struct, rename={"creds_store": "credsStore", "cred_helpers": "credHelpers"}):
    auths: dict[str, dict[str, Any] | None] | None = None
    creds_store: str | None = None
    cred_helpers: dict[str, str | None] | None = None


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The logins of one `config.json` as it was when it was read."""

    path: Path
    version: str
    """Changes when the file does; "" where there is none."""
    _config: _Config | None
    _problem: str

    async def login(self, host: Host, repository: str) -> Login:
        """The login for `repository` at `host`. Anonymous, with the problem, where a helper fails.

        Raises:
            ConfigError: the file is malformed.
        """
        if self._config is None:
            raise ConfigError(self._problem)
        helper, server = _helper(self._config, names_of(host)[0])
        if helper:
            return await self._ask(helper, server)
        auths = (self._config.auths or {}).items()
        logins = ((LoginScope.of(key), (key, auth)) for key, auth in auths if auth is not None)
        found = nearest(logins, host, repository)
        return self._choose(*found) if found else ANONYMOUS

    def _choose(self, key: str, auth: dict[str, Any]) -> Login:
        given = {name: value for name, value in auth.items() if value is not None}
        try:
            return Login.of(msgspec.convert(given, Auth))
        except (ValueError, msgspec.ValidationError) as error:
            raise ConfigError(f"{self.path}: auths.{key}: {error}") from None

    async def _ask(self, helper: str, server: str) -> Login:
        try:
            return await ask_helper(helper, server)
        except HelperError as error:
            log.warning("credential helper failed", file=str(self.path), error=str(error))
            return replace(ANONYMOUS, problem=str(error))


class DockerConfigFile:
    """One `config.json`, read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._read = DockerConfig(path, "", _Config(), "")

    def read(self) -> DockerConfig:
        """The file as it is now. Reads it: not for the event loop."""
        path = self._read.path
        version = _version(path)
        if version != self._read.version:
            self._read = _load(path, version)
        return self._read


def _version(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino}.{status.st_mtime_ns}.{status.st_size}"


def _load(path: Path, version: str) -> DockerConfig:
    if not version:
        return DockerConfig(path, "", _Config(), "")
    try:
        text = path.read_bytes().strip()
        # Docker takes an empty file as well.
        config = _Config() if text in (b"", b"null") else lenient_json.decode(text, _Config)
    except (OSError, ValueError) as error:
        return DockerConfig(path, version, None, f"{path}: not a Docker config.json: {error}")
    return DockerConfig(path, version, config, "")


def _helper(config: _Config, authority: str) -> tuple[str, str]:
    """The helper that knows the host, "" where `auths` does, and what it calls the host."""
    for key, helper in (config.cred_helpers or {}).items():
        if authority_of(key) == authority:
            return helper or "", key
    return config.creds_store or "", HUB_KEY if authority == DOCKER_HUB else authority
