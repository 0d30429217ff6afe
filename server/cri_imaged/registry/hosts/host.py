"""Registry hosts: which may serve a reference, in which order, with which settings.

Pure; behaviour as containerd's docs/hosts.md and core/remotes/docker/config.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from cri_imaged.oci.authority import DOCKER_HUB_HOST, split_port
from cri_imaged.oci.reference import DOCKER_HUB
from cri_imaged.registry.hosts.rewrite import Rewrite

DIAL_SECONDS = 30.0
_NAME_LENGTH = 253
_LABEL = 63


class Capability(enum.Flag):
    """What a host may be asked for. Resolving a tag takes more trust than serving a digest."""

    PULL = enum.auto()
    RESOLVE = enum.auto()
    PUSH = enum.auto()
    REFERRERS = enum.auto()


ALL_CAPABILITIES = Capability.PULL | Capability.RESOLVE | Capability.PUSH | Capability.REFERRERS


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How a host's certificate is verified and which client certificates it is shown."""

    authorities: tuple[Path, ...] = ()
    """PEM files trusted besides the system's authorities."""
    clients: tuple[tuple[Path, Path | None], ...] = ()
    """(certificate, key) files; None where the key is in the certificate's file."""
    skip_verify: bool | None = None

    @property
    def configured(self) -> bool:
        """Whether anything was said about TLS."""
        return bool(self.authorities or self.clients or self.skip_verify is not None)


@dataclass(frozen=True, slots=True)
class Host:
    """One host that may serve a reference."""

    scheme: str
    authority: str
    """Host and port as configured: `mirror.example:5000`, `[::1]:5000`."""
    path: str = "/v2"
    """Root of the distribution API, without a trailing slash."""
    capabilities: Capability = ALL_CAPABILITIES
    tls: TlsSettings = TlsSettings()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    dial_seconds: float = DIAL_SECONDS
    plain_fallback: bool = False
    """TLS is tried first and plain http where the server does not speak it: only for loopback,
    and where http was configured together with TLS settings."""

    rewrites: tuple[Rewrite, ...] = ()
    """What it calls repositories."""
    trace_context: bool = False
    """Whether it is told the trace that a pull belongs to."""
    by_latency: bool = False
    """Whether it is tried before or after others that are, by how quickly they answered lately."""

    def repository(self, name: str) -> str:
        """What this host calls the repository `name`."""
        return next(
            (found for rewrite in self.rewrites if (found := rewrite.apply(name)) != name), name
        )

    def url(self, path: str) -> str:
        """The address of `path` below the API's root, for reports."""
        return f"{self.scheme}://{self.authority}{self.path}/{path}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """All texts that must not appear in a message: headers may hold credentials, bare or after
        the name of a scheme."""
        values = [value for _, value in self.headers]
        return (*values, *(value.partition(" ")[2] for value in values))

    def is_proxy_for(self, registry: str) -> bool:
        """Whether requests for `registry` must say so with `?ns=`."""
        if self.authority == registry:
            return False
        return not (registry == DOCKER_HUB and self.authority == DOCKER_HUB_HOST)


def default_host(registry: str) -> Host:
    """The host of a registry for which nothing is configured.

    Loopback hosts speak plain http or TLS with any certificate; all others verified https.
    """
    if registry == DOCKER_HUB:
        return Host("https", DOCKER_HUB_HOST)
    name, port = split_port(registry)
    if not is_loopback(name):
        return Host("https", registry)
    if port == "80":
        return Host("http", registry)
    return Host(
        "https",
        registry,
        tls=TlsSettings(skip_verify=True),
        plain_fallback=port not in ("", "443"),
    )


def is_authority(text: str) -> bool:
    """Whether there can be such a host and port: ports end at 65535, and names follow IDNA and the
    lengths that DNS allows."""
    name, _port = split_port(text)
    try:
        valid = bool(URL(f"https://{text}").host)
        if ":" in name:
            ipaddress.IPv6Address(name)
    except ValueError:
        return False
    labels = name.removesuffix(".").split(".")
    return valid and len(name) <= _NAME_LENGTH and all(0 < len(one) <= _LABEL for one in labels)


def is_loopback(name: str) -> bool:
    """Whether `name` is `localhost` or a loopback address."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def capable(hosts: Sequence[Host], wanted: Capability) -> tuple[Host, ...]:
    """The hosts that have all `wanted` capabilities, in order."""
    return tuple(host for host in hosts if host.capabilities & wanted == wanted)
