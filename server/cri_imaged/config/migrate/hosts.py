"""A registry's `hosts.toml`, to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host of a registry, with the fields of hosts.toml that other programs know."""

    url: str
    override_path: bool = False
    capabilities: tuple[str, ...] = ()
    tls: Mapping[str, Any] = field(default_factory=dict)
    rewrite: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, address: str, **fields: Any) -> Endpoint:
        """Of a mirror's address as containerd and k3s take it: a URL whose path, where there is
        one, is the API's root, or a host alone. http only for a port of this machine's.

        Raises:
            ValueError: it is no URL.
        """
        if "://" not in address:
            host = urlsplit(f"//{address}").netloc
            local = host.rpartition(":")[0] in _LOCAL and not host.endswith(":443")
            address = f"{'http' if local else 'https'}://{address}"
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{address} is no http or https URL")
        own = parts.path.rstrip("/") in ("", "/v2")
        path = "" if own else parts.path.rstrip("/")
        url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        return cls(url, override_path=not own, **fields)

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def document(self) -> dict[str, Any]:
        """Its table in hosts.toml."""
        fields: dict[str, Any] = dict(self.tls)
        if self.override_path:
            fields["override_path"] = True
        if self.capabilities:
            fields["capabilities"] = list(self.capabilities)
        if self.rewrite:
            fields["rewrite"] = dict(self.rewrite)
        return fields


@dataclass(slots=True)
class RegistryHosts:
    """The hosts that serve one registry: mirrors in their order, then the registry itself."""

    name: str
    mirrors: list[Endpoint] = field(default_factory=list)
    server: Endpoint | None = None
    """The registry itself; None: as it is by default."""
    blocked: bool = False

    def document(self) -> dict[str, Any]:
        """hosts.toml."""
        document: dict[str, Any] = {"blocked": True} if self.blocked else {}
        if self.server:
            document |= {"server": self.server.url, **self.server.document()}
        if self.mirrors:
            document["host"] = {each.url: each.document() for each in self.mirrors}
        return document


def tls_fields(table: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """hosts.toml's `ca`, `client` and `skip_verify` from a table that calls the files of the
    authority, the certificate and the key, and the switch that turns verification off, `names`."""
    authority, certificate, key, insecure = (table.get(name) for name in names)
    fields: dict[str, Any] = {}
    if authority:
        fields["ca"] = authority
    if certificate and key:
        fields["client"] = [[certificate, key]]
    if insecure:
        fields["skip_verify"] = True
    return fields
