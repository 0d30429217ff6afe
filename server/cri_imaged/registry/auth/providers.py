"""All credential providers of a node, as its CredentialProviderConfig names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from cri_imaged.errors import ConfigError
from cri_imaged.registry.auth.login import ANONYMOUS, Login
from cri_imaged.registry.auth.provider import CredentialProvider, ProviderError
from cri_imaged.registry.auth.provider_config import files_of, read_providers

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Providers:
    """Those of one configuration as it was when it was read."""

    version: str
    """Changes when the configuration does."""
    _providers: Sequence[CredentialProvider]
    _problem: str = ""

    async def login(self, image: str) -> Login:
        """The first login that one of them has for `image`, a name without tag and digest.
        Anonymous, with the problem, where one failed and no other has any.

        Raises:
            ConfigError: the configuration is malformed.
        """
        if self._problem:
            raise ConfigError(self._problem)
        problems = []
        for provider in self._providers:
            try:
                login = await provider.login(image)
            except ProviderError as error:
                log.warning("credential provider failed", image=image, error=str(error))
                problems.append(str(error))
                continue
            if not login.anonymous:
                return login
        return replace(ANONYMOUS, problem="; ".join(problems))


class ProvidersFile:
    """One CredentialProviderConfig, read again whenever it changes. What programs answered before
    is forgotten then."""

    def __init__(self, path: Path, folder: Path) -> None:
        """`path` is a file or a folder of such; `folder` has the programs."""
        self._path = path
        self._folder = folder
        self._read = Providers("", ())

    def read(self) -> Providers:
        """The configuration as it is now. Reads it: not for the event loop."""
        try:
            files = files_of(self._path)
            version = " ".join(map(_stamp, files))
        except OSError as error:
            problem = f"{self._path}: cannot be read: {error.strerror}"
            self._read = Providers(problem, (), problem)
            return self._read
        if version != self._read.version:
            self._read = self._load(files, version)
        return self._read

    def _load(self, files: Sequence[Path], version: str) -> Providers:
        try:
            found = read_providers(files)
        except ConfigError as error:
            return Providers(version, (), str(error))
        return Providers(version, [CredentialProvider(self._folder, each) for each in found])


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_ino}.{status.st_mtime_ns}.{status.st_size}"
