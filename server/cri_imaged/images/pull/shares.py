"""Fair shares of a number of places, by registry and, within one, by namespace. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from cri_imaged.oci.reference import Reference


class Share(NamedTuple):
    """Whose images a pull is for."""

    registry: str
    namespace: str
    """The first component of a path that has several, else empty. Not more of it: whoever owns
    that one makes as many below it as he likes."""

    @classmethod
    def of(cls, reference: Reference) -> Share:
        """The share that a pull of `reference` counts to."""
        first, slash, _ = reference.repository.partition("/")
        return cls(reference.registry, first if slash else "")

    def __str__(self) -> str:
        return f"{self.registry}/{self.namespace}" if self.namespace else self.registry


class Shares:
    """Who holds how many of `capacity` places.

    A registry may hold as many as it leaves free, and a namespace half of what its registry may
    (dynamic thresholds, as switches share buffers). So one alone gets much, and still one that
    holds nothing finds a place at once.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._registries: Counter[str] = Counter()
        self._namespaces: Counter[Share] = Counter()

    def held(self, share: Share) -> int:
        """Places that the namespace holds."""
        return self._namespaces[share]

    def admits(self, share: Share) -> bool:
        """Whether the share may take a place more."""
        more = (self._capacity - self._held - self._registries[share.registry] + 1) // 2
        return self._namespaces[share] < more

    def next(self, waiting: Iterable[Share]) -> Share | None:
        """Whose turn it is among those that wait, longest first: of a registry that holds the
        fewest places, the namespace that does."""
        return min(
            filter(self.admits, waiting),
            key=lambda share: (self._registries[share.registry], self._namespaces[share]),
            default=None,
        )

    def take(self, share: Share) -> None:
        """It holds one more."""
        self._held += 1
        self._registries[share.registry] += 1
        self._namespaces[share] += 1

    def give_back(self, share: Share) -> None:
        """It holds one less."""
        self._held -= 1
        self._registries -= Counter([share.registry])  # which drops what is no longer held
        self._namespaces -= Counter([share])
