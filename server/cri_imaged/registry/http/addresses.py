"""Which addresses a stranger's URL (a token realm, a foreign layer, a redirect) must not lead us to
(pure)."""

from __future__ import annotations

import enum
import ipaddress
import socket


class Reach(enum.IntEnum):
    """How far away from us an address is understood; the greater, the nearer."""

    PUBLIC = 0
    """The same host for everybody."""
    PRIVATE = 1
    """A host of our network (RFC 1918, RFC 6598, unique local, anything reserved)."""
    LOCAL = 2
    """This very node, or its link, where the clouds' metadata services are."""


class ForbiddenAddressError(OSError):
    """A name leads only to addresses that are nearer than it may lead."""

    def __init__(self, nearest: Reach) -> None:
        super().__init__()
        self.what = "a private" if nearest is Reach.PUBLIC else "a loopback or link-local"


def reach(address: str) -> Reach:
    """The reach of an IP address; that of a name is not known, and PUBLIC."""
    parsed = _parse(address)
    if parsed is None:
        name = address.lower().rstrip(".")
        return Reach.LOCAL if f".{name}".endswith(".localhost") else Reach.PUBLIC
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = _embedded(parsed) or parsed
    if parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified or _this_net(parsed):
        return Reach.LOCAL
    if parsed in _METADATA:
        return Reach.LOCAL
    if not parsed.is_global or parsed.is_multicast or _reserved(parsed):
        return Reach.PRIVATE
    return Reach.PUBLIC


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    text = address.partition("%")[0].rstrip(".")
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        # The spellings that the system's resolver knows: `127.1`, `0x7f.1`, `2130706433`.
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, UnicodeEncodeError):
        return None


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _COMPATIBLE and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _this_net(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return isinstance(address, ipaddress.IPv4Address) and int(address) >> 24 == 0


def _reserved(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is none of those that the whole world routes; site-local ones, say."""
    return isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST


_COMPATIBLE = ipaddress.IPv6Network("::/96")
_TRANSLATED = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
)
"""NAT64 (RFC 6052, RFC 8215) and SIIT (RFC 7915): what is reached is the IPv4 address inside."""
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle
            "fd00:ec2::254",  # Amazon
            "fd20:ce::254",  # Google
        ),
    )
)
"""Of clouds' metadata services that are not at a link-local address. They give out credentials."""
