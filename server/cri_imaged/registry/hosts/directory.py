"""Finds the hosts of a registry in the folders of `registry.config_path`.

Folder names, their order, and Docker's layout of certificates as in containerd's docs/hosts.md.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from cri_imaged.errors import ConfigError
from cri_imaged.oci.authority import canonical_authority
from cri_imaged.registry.hosts.host import Host, TlsSettings, default_host
from cri_imaged.registry.hosts.toml import is_header, parse_hosts

_FILE = "hosts.toml"
_KEPT = 1000
"""Registries whose hosts are remembered."""
Header: TypeAlias = tuple[str, str]
_Stamp = tuple[tuple[str, int, int, int], ...]


class HostsDirectory:
    """The configured hosts of each registry, read again when a file changes."""

    def __init__(self, config_path: str, headers: Mapping[str, Sequence[str]]) -> None:
        """`config_path` is several folders separated by colons; `headers` go to every host.

        Raises:
            ConfigError: a header is malformed.
        """
        self._roots = tuple(Path(root) for root in config_path.split(":") if root)
        self._headers = tuple((name, value) for name, values in headers.items() for value in values)
        for name, value in self._headers:
            if not is_header(name, value):
                raise ConfigError(f"registry.headers: {name[:80]!r} is no header that HTTP allows")
        self._read: OrderedDict[tuple[Path, str], tuple[_Stamp, tuple[Host, ...]]] = OrderedDict()

    def hosts(self, registry: str) -> tuple[Host, ...]:
        """The hosts to ask for `registry`, in order, the registry itself last. Reads files.

        Raises:
            ConfigError: a file is malformed or cannot be read; names file and line.
        """
        folder = self._folder(registry)
        if folder is None:
            return self._with_headers((default_host(registry),))
        stamp = _stamp(folder)
        known = self._read.get((folder, registry))
        if known is None or known[0] != stamp:
            known = stamp, self._with_headers(_load(folder, registry))
            self._read[folder, registry] = known
            # `_default` serves any name that anybody asks for.
            while len(self._read) > _KEPT:
                self._read.popitem(last=False)
        return known[1]

    def configured(self) -> set[str]:
        """The registries that have a folder of their own. Reads directories."""
        return {
            _registry_of(entry.name)
            for root in self._roots
            if root.is_dir()
            for entry in root.iterdir()
            if entry.is_dir() and entry.name != "_default"
        }

    def _folder(self, registry: str) -> Path | None:
        for root in self._roots:
            for name in folder_names(registry):
                folder = root / name
                try:
                    folder.stat()
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
                return folder
        return None

    def _with_headers(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        return tuple(replace(host, headers=_nearer(self._headers, host.headers)) for host in hosts)


def _nearer(general: Sequence[Header], own: tuple[Header, ...]) -> tuple[Header, ...]:
    """All headers, where one of the host's own replaces those of the same name."""
    names = {name.lower() for name, _ in own}
    return (*(header for header in general if header[0].lower() not in names), *own)


def folder_names(registry: str) -> tuple[str, ...]:
    """The names of a registry's folder, in the order in which they are looked for (pure): as it is
    spelt, then as it is usually spelt, so that what is blocked is so in capitals, too."""
    spelt = dict.fromkeys((registry, canonical_authority(registry)))
    return (*(name for each in spelt for name in _names_of(each)), "_default")


def _names_of(registry: str) -> tuple[str, ...]:
    name, colon, port = registry.rpartition(":")
    if not colon or registry.endswith("]"):
        return (registry,)
    return f"{name}_{port}_", registry


def _registry_of(folder: str) -> str:
    """What `folder_names` gave this name to."""
    found = re.fullmatch(r"(.+)_(\d+)_", folder)
    return f"{found[1]}:{found[2]}" if found else folder


def _stamp(folder: Path) -> _Stamp:
    stamps = []
    for path in (folder, folder / _FILE):
        try:
            status = path.stat()
        except OSError:
            continue
        stamps.append((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def _load(folder: Path, registry: str) -> tuple[Host, ...]:
    file = folder / _FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if text:
        return parse_hosts(text, file, registry)
    host = default_host(registry)
    tls = _docker_layout(folder)
    return (replace(host, tls=tls) if tls.configured else host,)


def _docker_layout(folder: Path) -> TlsSettings:
    """Docker's files: `*.crt` are authorities, `*.cert` with `*.key` client certificates."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    clients = []
    for name in names:
        if name.endswith(".cert"):
            key = name.removesuffix(".cert") + ".key"
            clients.append((folder / name, folder / key if key in names else None))
    return TlsSettings(
        tuple(folder / name for name in names if name.endswith(".crt")), tuple(clients)
    )
