"""Docker's `config.json`: logins by host, and credential helpers (`docker-credential-*`).

Lookup as Docker's: the host's entry in `credHelpers`, else `credsStore`, else `auths`.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec

from cri_imaged.errors import ConfigError
from cri_imaged.oci.reference import DOCKER_HUB
from cri_imaged.registry.hosts import canonical_authority
from cri_imaged.registry.login import ANONYMOUS, Login

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 30.0
_HELPER_BYTES = 1 << 20
_NO_LOGIN = b"credentials not found"


class _Auth(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _Config(msgspec.Struct, rename={"creds_store": "credsStore", "cred_helpers": "credHelpers"}):
    auths: dict[str, _Auth] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class _HelperAnswer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class DockerConfig:
    """The logins of one `config.json`, read again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = ""
        self._config = _Config()

    @property
    def version(self) -> str:
        """Changes when the file does; "" where there is none."""
        try:
            status = self._path.stat()
        except OSError:
            return ""
        return f"{status.st_ino}.{status.st_mtime_ns}.{status.st_size}"

    async def login(self, authority: str) -> Login:
        """The login for `authority` (canonical, see `hosts.canonical_authority`).

        Raises:
            ConfigError: the file is malformed or a helper fails.
        """
        config = self._load()
        for key, helper in config.cred_helpers.items():
            if _names(key, authority):
                return await self._ask(helper, key)
        if config.creds_store:
            key = _HUB_KEY if authority == DOCKER_HUB else authority
            return await self._ask(config.creds_store, key)
        for key, auth in config.auths.items():
            if _names(key, authority):
                return self._choose(key, auth)
        return ANONYMOUS

    def _load(self) -> _Config:
        version = self.version
        if version and version != self._read_at:
            try:
                self._config = msgspec.json.decode(self._path.read_bytes(), type=_Config)
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                # A decoding error of msgspec gives place and type, never the value.
                raise ConfigError(f"{self._path}: not a Docker config.json: {error}") from None
            self._read_at = version
        return self._config if version else _Config()

    def _choose(self, key: str, auth: _Auth) -> Login:
        try:
            return Login.choose(
                username=auth.username,
                password=auth.password,
                auth=auth.auth,
                identity_token=auth.identitytoken,
                registry_token=auth.registrytoken,
            )
        except ValueError as error:
            raise ConfigError(f"{self._path}: auths.{key}: {error}") from None

    async def _ask(self, helper: str, server: str) -> Login:
        program = f"docker-credential-{helper}"
        if not _HELPER_NAME.fullmatch(helper):
            raise ConfigError(f"{self._path}: {helper[:80]!r} is no name of a credential helper")
        answer = await _run(program, server)
        if answer is None:
            return ANONYMOUS
        try:
            decoded = msgspec.json.decode(answer, type=_HelperAnswer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ConfigError(f"{program}: did not answer with a login in JSON") from None
        return Login.choose(username=decoded.username, password=decoded.secret)


def _names(key: str, authority: str) -> bool:
    """Whether a key of `auths` (a host, or a URL such as `https://index.docker.io/v1/`) names
    `authority`."""
    bare = key.partition("://")[2] or key
    return canonical_authority(bare.partition("/")[0]) == authority


async def _run(program: str, server: str) -> bytes | None:
    """The helper's answer; None where it has no login for `server`."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise ConfigError(f"{program}: cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            output, _ = await process.communicate(server.encode())
    except TimeoutError:
        raise ConfigError(f"{program}: no answer within {_HELPER_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0 and len(output) <= _HELPER_BYTES:
        return output
    if _NO_LOGIN in output[:4096]:
        return None
    raise ConfigError(f"{program}: failed with status {process.returncode} for {server}")
