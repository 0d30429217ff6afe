"""Proxies from the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, with the semantics of Go's
`http.ProxyFromEnvironment`, which the other tools of a node follow (pure)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from cri_imaged.errors import ConfigError
from cri_imaged.oci.authority import split_port
from cri_imaged.registry.hosts.host import is_loopback

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy a request goes through."""

    http: URL | None = field(default=None, repr=False)
    https: URL | None = field(default=None, repr=False)
    exceptions: tuple[str, ...] = ()
    """Entries of NO_PROXY, lower case: `*`, addresses, CIDR ranges, names, names with a leading
    dot (subdomains only); each but the ranges may have a port."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Proxies:
        """Read the variables, upper case before lower case. Raises `ConfigError`."""
        entries = _variable(environ, "NO_PROXY").lower().split(",")
        return cls(
            _proxy(environ, "HTTP_PROXY"),
            _proxy(environ, "HTTPS_PROXY"),
            tuple(entry.strip() for entry in entries if entry.strip()),
        )

    def proxy_for(self, url: URL) -> URL | None:
        """The proxy for `url`; None where it is asked directly, as loopback hosts always are."""
        proxy = self.https if url.scheme == "https" else self.http
        name = (url.host or "").lower().rstrip(".")
        if proxy is None or is_loopback(name):
            return None
        port = str(url.port or "")
        return None if any(_covers(entry, name, port) for entry in self.exceptions) else proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.lower(), "")


def _proxy(environ: Mapping[str, str], name: str) -> URL | None:
    text = _variable(environ, name)
    if not text:
        return None
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        raise ConfigError(f"{name} is no URL of a proxy") from None
    if url.scheme not in _SCHEMES or not url.host:
        raise ConfigError(f"{name} must be an http://, https:// or socks5:// URL of a proxy")
    return url


def _covers(entry: str, name: str, port: str) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_range(name, entry)
    entry_name, entry_port = (
        split_port(entry)
        if entry.count(":") < 2 or "]" in entry
        else (
            entry,
            "",
        )
    )
    if entry_port and entry_port != port:
        return False
    if _same_address(name, entry_name):
        return True
    entry_name = entry_name.removeprefix("*")
    if entry_name.startswith("."):
        return name.endswith(entry_name)
    return name == entry_name or name.endswith(f".{entry_name}")


def _in_range(name: str, text: str) -> bool:
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False


def _same_address(name: str, text: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(text)
    except ValueError:
        return False
