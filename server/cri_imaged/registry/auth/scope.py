"""What a login of the node is for: a registry's host, or some of its repositories (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from cri_imaged.oci.authority import canonical_authority
from cri_imaged.registry.hosts.host import Host

_T = TypeVar("_T")

HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls its Hub where it keeps logins."""


@dataclass(frozen=True, slots=True)
class LoginScope:
    """The key of a login, in our configuration or in a Docker `config.json`: a host, a URL of one,
    or a host and the begin of its repositories' names (containers-auth.json(5))."""

    authority: str
    repositories: str
    """The path that the names of all its repositories begin with; "": any."""

    @classmethod
    def of(cls, key: str) -> LoginScope:
        """The scope that a key names. A URL's path says nothing, nor does an API's version."""
        path = "" if "://" in key else key.partition("/")[2].strip("/")
        return cls(authority_of(key), "" if path in ("v1", "v2") else path)

    def covers(self, host: Host, repository: str) -> bool:
        """Whether it is for what `host` calls `repository`; "" is one that nobody knows."""
        path = f"{host.repository(repository)}/"
        return self.authority in names_of(host) and (
            not self.repositories or path.startswith(f"{self.repositories}/")
        )


def nearest(found: Iterable[tuple[LoginScope, _T]], host: Host, repository: str) -> _T | None:
    """Of what has scopes, that for most of the name of `repository` at `host`; None where nothing
    is for it."""
    fitting = [(scope, each) for scope, each in found if scope.covers(host, repository)]
    best = max(fitting, key=lambda pair: len(pair[0].repositories), default=None)
    return best[1] if best else None


def names_of(host: Host) -> tuple[str, str]:
    """What credentials may call `host`: the port of its scheme may be left out."""
    return canonical_authority(host.authority, host.scheme), host.authority.lower()


def authority_of(address: str) -> str:
    """The canonical authority of an address, bare or a URL."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "https", address
    authority = rest.partition("/")[0].rpartition("@")[2]
    return canonical_authority(authority, scheme)
