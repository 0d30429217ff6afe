"""k3s' and RKE2's `registries.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cri_imaged.config.migrate.hosts import tls_fields
from cri_imaged.config.migrate.migration import Left, Source
from cri_imaged.config.migrate.mirrors import Mirrors

_LOGIN = {
    "username": "username",
    "password": "password",
    "auth": "auth",
    "identity_token": "identitytoken",
}
_TLS = ("ca_file", "cert_file", "key_file", "insecure_skip_verify")


def read(source: Source) -> None:
    """Read `mirrors` and `configs`; list whatever else there is."""
    tls: dict[str, Mapping[str, Any]] = {}
    for host, config in source.inner("configs").tables():
        for key, ours in _LOGIN.items():
            if host == "*":
                config.inner("auth").leave(key, "there is no login for every host: name the hosts")
            else:
                config.inner("auth").carry(key, "image", "registry", "configs", host, "auth", ours)
        if host == "*":
            config.leave("tls", "there are no certificates for every host: name the hosts")
        tls[host] = tls_fields(config.inner("tls").table, _TLS)
    for name, mirror in source.inner("mirrors").table.items():
        if not mirror:
            why = "without an endpoint it is k3s' own registry of its nodes, see docs/scale.md"
            source.migration.left.append(Left(source.file, f'mirrors."{name}"', why))
    mirrors = Mirrors(source.migration, tls)
    for name, mirror in source.inner("mirrors").tables():
        mirrors.add(mirror, "endpoint", name)
    mirrors.add_servers()
    for key in source.table:
        if key not in ("mirrors", "configs"):
            source.leave(key, "is no key of registries.yaml")
