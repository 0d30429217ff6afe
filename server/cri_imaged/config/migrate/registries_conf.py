"""containers' `registries.conf`, which CRI-O and podman read: version 2, and 1 as it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cri_imaged.config.migrate.hosts import Endpoint
from cri_imaged.config.migrate.migration import Source
from cri_imaged.oci.aliases import check_aliases

_CAPABILITIES = {"digest-only": ("pull",), "tag-only": ("resolve",)}
_READ = ("registry", "unqualified-search-registries", "aliases")
_LISTS = {"insecure": "insecure", "block": "blocked"}
"""Of version 1, and what version 2 has in each registry's own table for them."""


def read(source: Source) -> None:
    """Read the `[[registry]]` tables and the aliases; list whatever else there is."""
    _searched(source, "unqualified-search-registries")
    _aliases(source.inner("aliases"))
    for key in source.table:
        if key not in _READ:
            source.leave(key, "has no counterpart here")
    for table in source.rows("registry"):
        _registry(Source(source.file, "registry", table, source.migration))


def read_version_1(source: Source) -> None:
    """Read its lists of registries."""
    for key in source.table:
        if key != "registries":
            source.leave(key, "is no key of version 1 of registries.conf")
    registries = source.inner("registries")
    _searched(registries.inner("search"), "registries")
    for kind, field in _LISTS.items():
        listed = registries.inner(kind)
        for name in listed.strings("registries"):
            if _is_whole(name):
                table = {"location": name, field: True}
                _registry(Source(source.file, listed.path, table, source.migration))
            else:
                listed.leave("registries", f"{name} is no whole registry, as hosts.toml needs")


def _searched(source: Source, key: str) -> None:
    if source.table.get(key) not in (None, [], ["docker.io"]):
        source.leave(key, "short names are Docker Hub's here")


def _is_whole(name: str) -> bool:
    """Whether it is a registry's, not a part's of one or of several."""
    return bool(name) and "/" not in name and not name.startswith("*")


def _aliases(source: Source) -> None:
    """An empty one is as if it were not there."""
    for short, name in source.table.items():
        try:
            check_aliases({short: str(name)})
        except ValueError:
            source.leave(short, f"{name!r} is no whole name, or this no short one")
        else:
            source.migration.set(("image", "registry", "aliases", short), name)


def _registry(source: Source) -> None:
    table = source.table
    location = str(table.get("location") or table.get("prefix") or "")
    prefix = str(table.get("prefix") or location)
    if not _is_whole(prefix):
        why = f"{prefix or 'a registry without prefix'} is no whole registry, as hosts.toml needs"
        source.leave("prefix" if "prefix" in table else "location", why)
        return
    hosts = source.migration.registry(prefix)
    hosts.blocked = bool(table.get("blocked"))
    by_digest = bool(table.get("mirror-by-digest-only"))
    for mirror in source.rows("mirror"):
        only = str(mirror.get("pull-from-mirror") or ("digest-only" if by_digest else ""))
        hosts.mirrors += _endpoints(mirror, _CAPABILITIES.get(only, ()))
    if location != prefix or table.get("insecure"):
        *mirrors, hosts.server = _endpoints({**table, "location": location}, ())
        hosts.mirrors += mirrors


def _endpoints(table: Mapping[str, Any], capabilities: tuple[str, ...]) -> list[Endpoint]:
    """`location` (a host, and the begin of its repositories' names); where it is insecure, without
    verification, and then by http."""
    host, _, path = str(table.get("location") or "").partition("/")
    root = f"/v2/{path}" if path else ""
    if not table.get("insecure"):
        return [Endpoint(f"https://{host}{root}", bool(path), capabilities)]
    return [
        Endpoint(f"https://{host}{root}", bool(path), capabilities, tls={"skip_verify": True}),
        Endpoint(f"http://{host}{root}", bool(path), capabilities),
    ]
