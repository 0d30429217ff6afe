"""What hosts wanted to be shown, and what it was met with."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cri_imaged.registry.auth.challenge import Challenge
from cri_imaged.registry.auth.schemes import Authorization

_KEPT_BYTES = 4 << 20
"""Of texts, over all grants."""
_GRANT_BYTES = 1 << 10
"""Of one's objects, besides its texts."""


class GrantKey(NamedTuple):
    """Who may use a grant, and for what: never another identity, never another place."""

    scheme: str
    authority: str
    path: str
    """Several registries may be served under paths of one host."""
    registry: str
    scope: str
    identity: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A host's challenges and what met them."""

    challenges: tuple[Challenge, ...]
    authorization: Authorization
    made: float
    """Monotonic time."""


class GrantCache:
    """Grants of all pulls. One that has expired is kept for its challenges: the next request brings
    what they want before it is asked. The oldest go where all take too much memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._grants: OrderedDict[GrantKey, Grant] = OrderedDict()
        self._bytes = 0
        self._locks: weakref.WeakValueDictionary[GrantKey, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )

    def usable(self, key: GrantKey) -> Grant | None:
        """The grant under `key` that has not expired."""
        grant = self._grants.get(key)
        if grant is None or grant.authorization.expires <= self._clock():
            return None
        return grant

    def challenges(self, key: GrantKey) -> tuple[Challenge, ...]:
        """What the host wanted, where it was content with what met it for all that is known."""
        grant = self._grants.get(key)
        return grant.challenges if grant is not None else ()

    def put(
        self, key: GrantKey, challenges: tuple[Challenge, ...], authorization: Authorization
    ) -> Grant:
        """Keep what was made just now."""
        self.forget(key)
        grant = self._grants[key] = Grant(challenges, authorization, self._clock())
        self._bytes += _size(key, grant)
        while self._bytes > _KEPT_BYTES:
            self.forget(next(iter(self._grants)))
        return grant

    def drop(self, key: GrantKey, grant: Grant) -> None:
        """Forget `grant`, unless it has been replaced already. What was refused is not shown
        unasked again: some servers lock out who is wrong too often."""
        if self._grants.get(key) is grant:
            self.forget(key)

    def forget(self, key: GrantKey) -> None:
        """Forget whatever is there: its challenges can no longer be met."""
        grant = self._grants.pop(key, None)
        if grant is not None:
            self._bytes -= _size(key, grant)

    def lock(self, key: GrantKey) -> asyncio.Lock:
        """Held while a grant is made, so that those who want the same wait for it."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


def _size(key: GrantKey, grant: Grant) -> int:
    challenges = (
        len(name) + len(value)
        for challenge in grant.challenges
        for name, value in challenge.parameters.items()
    )
    secrets = map(len, grant.authorization.secrets)
    return _GRANT_BYTES + sum(map(len, key)) + sum(challenges) + sum(secrets)
