"""What is asked of a host, and how a URL is judged (pure)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from multidict import CIMultiDict
from yarl import URL

from cri_imaged import __version__
from cri_imaged.registry.failures import HostFailure, Kind
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.addresses import Reach

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_LOCATION = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*)?(.*)", re.DOTALL)
_LONGEST_LOCATION = 64 << 10
"""Signed URLs reach 30 KiB."""
_KEPT = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"<>\\^`{|}')


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of `host`."""

    url: URL
    host: Host
    """Whose TLS settings, dial timeout and headers are used."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to a redirect's target as well."""
    own_headers: CIMultiDict[str] = field(default_factory=CIMultiDict, repr=False)
    """Sent where `belongs_to` holds, and nowhere else."""
    form: Mapping[str, str] | None = field(default=None, repr=False)
    public_only: bool = False
    """Refuse private addresses, also behind a redirect."""
    signed: bool = False
    """A stranger gave the URL, and it may be signed: neither is its path logged nor an error's
    body shown."""

    @property
    def nearest(self) -> Reach:
        """How near an address may be that this leads to."""
        return Reach.PUBLIC if self.public_only else Reach.LOCAL

    @property
    def may_be_plain(self) -> bool:
        """Whether plain http will do where TLS is not spoken. It goes for the host alone: a token
        server that the host names with https is never sent a password without TLS."""
        host = self.host
        return host.plain_fallback and same_origin(
            self.url, URL(f"{host.scheme}://{host.authority}")
        )

    def belongs_to(self, url: URL) -> bool:
        """Whether `url`, which redirects may have led to, is who this is meant for: the same
        origin, or the same name and path with TLS instead of without."""
        upgraded = (self.url.scheme, url.scheme) == ("http", "https")
        same = (self.url.host, self.url.raw_path) == (url.host, url.raw_path)
        return same_origin(url, self.url) or (upgraded and same)

    def headers_for(self, url: URL) -> CIMultiDict[str]:
        """All headers to send to `url`."""
        headers: CIMultiDict[str] = CIMultiDict(
            {
                "Host": url.host_port_subcomponent or "",
                "User-Agent": f"cri-imaged/{__version__}",
                "Accept-Encoding": "identity",
            }
        )
        headers.update(self.headers)
        if self.belongs_to(url):
            for name in self.own_headers:
                headers.popall(name, None)
            headers.extend(self.own_headers)
        return headers


def is_http(url: URL) -> bool:
    """Whether it is an http or https URL of a host. Raises `ValueError` where host or port are
    malformed, which the library finds out only when they are asked for, or not at all."""
    if url.scheme not in ("http", "https") or not url.host:
        return False
    host = url.raw_host or ""
    if not _NAME.fullmatch(host):
        ipaddress.IPv6Address(host)
    return url.port != 0


def same_origin(one: URL, other: URL) -> bool:
    """Whether scheme, host and port are the same."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def authority(url: URL) -> str:
    """Host and port, for messages."""
    return f"{url.host_subcomponent}:{url.port}"


def redirect_target(url: URL, location: str | None) -> URL:
    """Where a redirect from `url` leads. What is no URL character in `location` is quoted, as other
    clients do. Raises `HostFailure`."""
    if not location:
        raise HostFailure(Kind.REFUSED, "redirects without saying where to")
    if len(location) > _LONGEST_LOCATION:
        raise HostFailure(Kind.REFUSED, "redirects to a URL that is too long")
    try:
        target = url.join(URL(_quoted(location), encoded=True))
        usable = is_http(target)
    except ValueError:
        raise HostFailure(Kind.REFUSED, "redirects to a malformed URL") from None
    if not usable:
        raise HostFailure(Kind.REFUSED, "redirects to something that is not http or https")
    if url.scheme == "https" and target.scheme == "http":
        raise HostFailure(
            Kind.REFUSED, f"redirects from https to http at {authority(target)}: refused"
        )
    return target.with_user(None) if target.user is not None else target


def _quoted(location: str) -> str:
    found = _LOCATION.fullmatch(location)
    assert found is not None
    return (found[1] or "") + quote(found[2].encode("utf-8", "surrogateescape"), safe=_KEPT)
