"""Mirrors as containerd's old tables and k3s list them: addresses by registry, TLS by host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cri_imaged.config.migrate.hosts import Endpoint
from cri_imaged.config.migrate.migration import Left, Migration, Source

_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"


class Mirrors:
    """Adds them to a migration."""

    def __init__(self, migration: Migration, tls: Mapping[str, Mapping[str, Any]]) -> None:
        """Args:
        tls: what hosts.toml says of a host's certificates, by host and port.
        """
        self._migration = migration
        self._tls = tls

    def add(self, source: Source, key: str, registry: str) -> None:
        """Add the addresses that `source` has under `key`, and its `rewrite`, to `registry`."""
        hosts = self._migration.registry(registry)
        rewrite = source.inner("rewrite").table
        for address in source.strings(key):
            try:
                endpoint = Endpoint.of(address, rewrite=rewrite)
            except ValueError:
                # Without the address, which may hold a password.
                why = "an address in it is no http or https URL"
                self._migration.left.append(Left(source.file, f"{source.path}.{key}", why))
                continue
            hosts.mirrors.append(replace(endpoint, tls=self._tls.get(endpoint.host, {})))

    def add_servers(self) -> None:
        """Give the registries themselves their certificates. Call last."""
        for host, fields in self._tls.items():
            if not fields or host == "*":
                continue
            name = _DOCKER_HUB if host == _DOCKER_HUB_HOST else host
            endpoint = Endpoint.of(_DOCKER_HUB_HOST if name == _DOCKER_HUB else host, tls=fields)
            self._migration.registry(name).server = endpoint
