"""Finds the hosts of a registry in the folders of `registry.config_path`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cri_imaged.registry.hosts import Host, default_host


class HostsDirectory:
    """The configured hosts of each registry."""

    def __init__(self, config_path: str, headers: Mapping[str, Sequence[str]]) -> None:
        self._headers = tuple((name, value) for name, all_ in headers.items() for value in all_)

    def hosts(self, registry: str) -> tuple[Host, ...]:
        """The hosts to ask for `registry`, in order, the registry itself last."""
        host = default_host(registry)
        return (replace(host, headers=(*self._headers, *host.headers)),)
