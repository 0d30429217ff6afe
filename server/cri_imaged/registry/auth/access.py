"""On whose behalf, and for what, hosts are asked; and where exactly a request goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from yarl import URL

from cri_imaged.ports import Activity
from cri_imaged.registry.auth.grants import GrantKey
from cri_imaged.registry.auth.keyring import Logins
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.request import same_origin
from cri_imaged.registry.http.response import Response


@dataclass(frozen=True, slots=True)
class Access:
    """One pull's."""

    registry: str
    repository: str
    """As the reference has it; a host may have another name for it. Empty: the registry itself."""
    logins: Logins
    activity: Activity = field(default_factory=Activity)
    began: float = field(default_factory=time.monotonic)
    """What was granted before is another pull's. Monotonic time."""

    def scope(self, host: Host) -> str:
        """The token scope that pulling from `host` takes; none to be let in at all."""
        return f"repository:{host.repository(self.repository)}:pull" if self.repository else ""

    def path(self, host: Host, thing: str) -> str:
        """The path of `thing`, `blobs/…` or `manifests/…`, below the root of the host's API."""
        return f"{host.repository(self.repository)}/{thing}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes, and with which logins."""

    url: URL
    host: Host
    known_as: Host
    """The host that logins name: before it redirected to https, say."""
    logins: Logins
    foreign: bool = False
    """A redirect's target, which is none of the hosts that are configured for the registry."""

    def key(self, access: Access) -> GrantKey:
        """What grants for this place are kept under."""
        identity = self.logins.identity(self.known_as)
        return GrantKey(
            self.url.scheme,
            self.host.authority,
            self.host.path,
            access.registry,
            access.scope(self.host),
            identity,
        )

    def after(self, response: Response) -> Place:
        """Where `response` to a request for this place came from.

        A redirect from http to https of the same name is still at home. Any other origin is
        nobody that this request's login may be shown to: there the node's own login for exactly
        that host is used, or none.
        """
        if same_origin(response.url, self.url):
            return self
        if response.redirected_to is None and response.url.scheme == "http":
            return self  # spoken to without TLS, as its configuration allows
        host = replace(
            self.host,
            scheme=response.url.scheme,
            authority=f"{response.url.host_subcomponent}:{response.url.port}",
            plain_fallback=False,
        )
        if response.redirected_to is None:
            return replace(self, url=response.url, host=host)
        host = replace(host, path="", headers=(), rewrites=(), tls=replace(host.tls, clients=()))
        return Place(response.url, host, host, self.logins.elsewhere(), foreign=True)


def place_of(host: Host, thing: str, access: Access) -> Place:
    """Where `thing` is at a host of the registry."""
    return _place(host, access.path(host, thing), access)


def root_of(host: Host, access: Access) -> Place:
    """The root of a host's API, which says who is let in."""
    return _place(host, "", access)


def _place(host: Host, path: str, access: Access) -> Place:
    return Place(api_url(host, path, access.registry), host, host, access.logins)


def api_url(host: Host, path: str, registry: str) -> URL:
    """The URL of `path` at `host`; hosts other than the registry's own are told its name."""
    url = URL(host.url(path), encoded=True)
    return url.extend_query({"ns": registry}) if host.is_proxy_for(registry) else url
