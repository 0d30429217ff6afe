"""Values that several rooms share."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps garbage collection's hands off what its holder brings in."""

    id: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """One CRI AuthConfig. Secrets are left out of `repr`, so that no log line can hold them."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    """Base64 of `user:password`."""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What something takes on disk."""

    bytes: int
    inodes: int
