"""Registries' hosts as names: which of them are the same."""

from __future__ import annotations

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
    """An authority for comparison: lower case, without the scheme's default port, with Docker
    Hub's aliases made one."""
    authority = authority.lower()
    _name, port = split_port(authority)
    if port == _DEFAULT_PORTS.get(scheme):
        authority = authority.removesuffix(f":{port}")
    return DOCKER_HUB if authority in DOCKER_HUB_ALIASES else authority
