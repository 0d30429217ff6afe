"""Values that several rooms share."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import msgspec


class Priority(enum.IntEnum):
    """Whose work goes first: the lower number's."""

    CLIENT = 0
    """A client waits for it: a kubelet, or somebody at the command line."""
    PREFETCH = 1
    """The node brings it in so that nobody has to wait for it later."""
    REPAIR = 2
    """What is here was damaged, and nobody has asked for it yet."""


@dataclass(slots=True, unsafe_hash=True)
class Lease:
    """Keeps garbage collection's hands off what its holder brings in."""

    id: str
    ended: bool = field(default=False, compare=False)
    """It holds nothing any more, and never will."""


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """What a login is written as in every source: a CRI AuthConfig, an entry of Docker's
    `config.json` (whose keys these are), our configuration. Secrets are left out of `repr`, so
    that no log line can hold them.

    Which of them is used: username and password, else identitytoken, else auth, else
    registrytoken.
    """

    username: str = ""
    """User's name."""
    password: str = ""
    """That user's password, or an access token that stands for it."""
    auth: str = ""
    """Base64 of `user:password`."""
    identitytoken: str = ""
    """An OAuth2 refresh token."""
    registrytoken: str = ""
    """A bearer token, sent as it is."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Credentials(Auth, frozen=True, kw_only=True):
    """One CRI AuthConfig."""

    server_address: str = ""
    """The host, bare or in a URL, that it is for; "": it does not say."""

    def __repr__(self) -> str:
        return "Credentials(…)"


DISK_BLOCK = 4096
"""Bytes in which disk space is counted; a directory takes one block."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What something takes on disk."""

    bytes: int
    inodes: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.bytes + other.bytes, self.inodes + other.inodes)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a view: arguments of mount(8), to be done in the client's mount namespace."""

    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PullCount:
    """The pulls of one name that gave one image, for one runtime handler."""

    name: str
    handler: str
    image_id: str
    """Empty: those that failed."""
    pulls: int
    fetched: int
    """Of these, how many fetched something."""
    bytes: int
    """That came over the network."""
    first: float
    last: float
    """Unix seconds."""
