"""What every authentication scheme is, and the one that needs nothing but a login: Basic.

The table of schemes is made where the client is wired (`distribution.py`); a new one is an entry
there and a file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from cri_imaged.registry.auth.challenge import Challenge
from cri_imaged.registry.auth.login import Login
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.request import Request

_KEPT_SECONDS = 300.0
"""How long a host's wish for a login as it is, Basic or a registry token, is remembered."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks which host for what."""

    host: Host
    scope: str
    """Of a token, where the challenge names none."""
    login: Login


class Authorization(Protocol):
    """What met a challenge. It authorises requests, each by itself, until it expires. What is
    equal shows the same: who refused one would refuse the other."""

    @property
    def expires(self) -> float:
        """Monotonic time."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in a message."""
        ...

    def headers(self, request: Request) -> Mapping[str, str]:
        """What `request` is sent with in addition."""
        ...


class Scheme(Protocol):
    """One way to authenticate, under its name in `WWW-Authenticate`."""

    async def meet(self, challenge: Challenge, asked: Asked) -> Authorization | None:
        """Meet a challenge of this scheme; None where that takes another login or another
        challenge.

        Raises:
            HostFailure: who decides about it refuses, or cannot be reached.
        """
        ...


Schemes: TypeAlias = Mapping[str, Scheme]
"""By name in lower case, the preferred ones first."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An `Authorization` whose header is the same for every request."""

    value: str = field(repr=False)
    expires: float = field(compare=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The part behind the scheme's name."""
        return (self.value.partition(" ")[2],)

    def headers(self, request: Request) -> Mapping[str, str]:
        """The header, whatever the request."""
        return {"Authorization": self.value}


def as_it_is(value: str) -> Shown:
    """A login that is shown unchanged, so that no server says how long it lasts."""
    return Shown(value, time.monotonic() + _KEPT_SECONDS)


class Basic:
    """User and password with each request (RFC 7617)."""

    async def meet(self, challenge: Challenge, asked: Asked) -> Authorization | None:
        """See `Scheme.meet`."""
        return as_it_is(asked.login.basic) if asked.login.username else None
