"""How one request to one host failed, and what many such failures mean together (pure)."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from cri_imaged.errors import (
    Attempt,
    Category,
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    RegistryError,
    UnsupportedContentError,
)


class Kind(enum.Enum):
    """What a failure says of the host and of the content."""

    UNREACHABLE = "unreachable"
    """No connection, a transient status, a broken or stalled body: trying again may help."""
    REFUSED = "refused"
    """TLS, redirect or realm rules forbid to go on; trying again will not help."""
    NOT_FOUND = "not found"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission denied"
    CORRUPT = "corrupt"
    """The host has something else under this digest, or no valid document."""
    TOO_LARGE = "too large"
    UNSUPPORTED = "unsupported"
    """The host has something that we know no use for."""


class HostFailure(Exception):  # noqa: N818  # not an error of the daemon: one host's answer
    """One host did not give what was asked for. Its text holds no secret."""

    def __init__(
        self,
        kind: Kind,
        outcome: str,
        *,
        status: int | None = None,
        codes: tuple[str, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(outcome)
        self.kind = kind
        self.outcome = outcome
        self.status = status
        self.codes = codes
        self.retry_after = retry_after
        """Seconds that the host asked to wait."""

    def within(self, context: str) -> HostFailure:
        """The same failure, with what it happened to in front."""
        return self._saying(f"{context}: {self.outcome}")

    def adding(self, note: str) -> HostFailure:
        """The same failure, with a note behind."""
        return self._saying(f"{self.outcome}; {note}")

    def _saying(self, outcome: str) -> HostFailure:
        return HostFailure(
            self.kind, outcome, status=self.status, codes=self.codes, retry_after=self.retry_after
        )

    @property
    def retryable(self) -> bool:
        """Whether the same host may succeed later."""
        return self.kind is Kind.UNREACHABLE

    @property
    def unhealthy(self) -> bool:
        """Whether the host is to be tried last for a while."""
        return self.kind in (Kind.UNREACHABLE, Kind.REFUSED, Kind.CORRUPT)


def printable(text: str, limit: int) -> str:
    """A stranger's text, made fit for one line of a message."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:limit])
    return shown + "…" if len(text) > limit else shown


AUTHORITATIVE = (Kind.UNAUTHENTICATED, Kind.PERMISSION_DENIED, Kind.NOT_FOUND)
"""Final where the registry itself says it."""
_RANKS: Mapping[Kind, int] = {
    Kind.UNAUTHENTICATED: 1,
    Kind.PERMISSION_DENIED: 2,
    Kind.UNREACHABLE: 3,
    Kind.REFUSED: 4,
    Kind.TOO_LARGE: 5,
    Kind.UNSUPPORTED: 6,
    Kind.CORRUPT: 7,
    Kind.NOT_FOUND: 8,
}
_CATEGORIES: Mapping[Kind, Category] = {
    Kind.UNAUTHENTICATED: Category.UNAUTHENTICATED,
    Kind.PERMISSION_DENIED: Category.PERMISSION_DENIED,
    Kind.NOT_FOUND: Category.NOT_FOUND,
}


def most_telling(kinds: Sequence[Kind]) -> Kind:
    """What each host's last failure, in the order of the configuration, means together.

    The last host is the registry itself: what it says of existence and permission decides.
    Otherwise a denial weighs most, and "not found" needs every host to say so.
    """
    if kinds[-1] in AUTHORITATIVE:
        return kinds[-1]
    return min(kinds, key=lambda kind: _RANKS[kind])


def conclude(kind: Kind, what: str, attempts: Sequence[Attempt]) -> ImagedError:
    """The error that a client sees when no host succeeded."""
    error = RegistryError(
        _CATEGORIES.get(kind, Category.REGISTRY_UNAVAILABLE), what, tuple(attempts)
    )
    if kind is Kind.CORRUPT:
        return CorruptContentError(str(error))
    if kind is Kind.TOO_LARGE:
        return LimitExceededError(str(error))
    if kind is Kind.UNSUPPORTED:
        return UnsupportedContentError(str(error))
    return error
