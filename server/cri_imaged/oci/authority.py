"""Registries' hosts as names: which of them are the same."""

from __future__ import annotations

import ipaddress

from cri_imaged.oci.reference import DOCKER_HUB

DOCKER_HUB_HOST = "registry-1.docker.io"
DOCKER_HUB_ALIASES = frozenset({DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST})
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def split_port(authority: str) -> tuple[str, str]:
    """Name (brackets of IPv6 removed) and port (empty where there is none) of an authority."""
    name, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        name, port = authority, ""
    return name.removeprefix("[").removesuffix("]"), port


def canonical_authority(authority: str, scheme: str = "https") -> str:
    """An authority for comparison: lower case, IP addresses and ports in their usual form, without
    the scheme's default port, with Docker Hub's aliases made one."""
    name, port = split_port(authority.lower())
    if ":" in name:
        name = _usual(name)
    port = port.lstrip("0") or port[:1]  # 0443 is 443
    if port and port != _DEFAULT_PORTS.get(scheme):
        return f"{name}:{port}"
    return DOCKER_HUB if name in DOCKER_HUB_ALIASES else name


def _usual(address: str) -> str:
    """An IPv6 address in brackets, or the IPv4 address that it stands for."""
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return f"[{address}]"
    return str(parsed.ipv4_mapped or f"[{parsed}]")
