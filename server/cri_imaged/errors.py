"""The error taxonomy: what can go wrong, free of gRPC.

Every error that a client may see derives from `ImagedError` and belongs to one `Category`;
`cri/errors.py` maps categories to gRPC codes. A message names the thing and what to do, and
never holds a secret. Anything else that escapes is a defect of ours and answers INTERNAL.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self


class Category(enum.Enum):
    """What kind of thing went wrong, from the client's point of view."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    IN_USE = "in_use"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    REGISTRY_UNAVAILABLE = "registry_unavailable"
    SIGNATURE_REJECTED = "signature_rejected"
    CORRUPT = "corrupt"
    EXHAUSTED = "exhausted"
    DISK_FAILED = "disk_failed"
    PROXY_FAILED = "proxy_failed"


class ImagedError(Exception):
    """Base of every error with a meaning for the client."""

    category: Category

    def within(self, context: str) -> Self:
        """This error as it looks from outside of `context`, which its message names first."""
        error = type(self).__new__(type(self), f"{context}: {self}")
        error.__dict__.update(self.__dict__)
        return error

    def alone(self) -> Self:
        """This error without the frames that it came through and what led to it, as they keep in
        memory all that was looked at."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class InvalidRequestError(ImagedError):
    """A reference, a request or a truncated ID is malformed or ambiguous."""

    category = Category.INVALID


class ConfigError(ImagedError):
    """The configuration is wrong; the message names the file and the key or line."""

    category = Category.INVALID


class NotFoundError(ImagedError):
    """What was asked for does not exist here (an image, a view, a matching platform)."""

    category = Category.NOT_FOUND


class AlreadyExistsError(ImagedError):
    """What was to be made is here already, under that very name."""

    category = Category.ALREADY_EXISTS


class InUseError(ImagedError):
    """The thing is in a state, or held by another one, that does not allow what was asked."""

    category = Category.IN_USE


class CorruptContentError(ImagedError):
    """Digest, size or diffID mismatch; malformed document or archive."""

    category = Category.CORRUPT


class UnsupportedContentError(CorruptContentError):
    """A media type, entry type or digest algorithm that is not supported; the message names it."""


class LimitExceededError(ImagedError):
    """Something a stranger controls went over its limit; the message names limit and value."""

    category = Category.EXHAUSTED


class WindowExceededError(LimitExceededError):
    """A zstd frame wants a larger window than its decoder was given."""


class NoSpaceError(ImagedError):
    """The disk or a quota is full (ENOSPC, EDQUOT), or a pull cannot fit."""

    category = Category.EXHAUSTED


class DiskFailedError(ImagedError):
    """The file system was turned read-only, or the disk does not do what it is told (EROFS, EIO,
    EUCLEAN); the message has the kernel's own words."""

    category = Category.DISK_FAILED


class WorkerDiedError(ImagedError):
    """A layer's worker process died again and again, often for want of memory, or none is started
    any more; the message says which."""

    category = Category.EXHAUSTED


class SourceFailedError(ImagedError):
    """A layer's bytes stopped arriving while it was applied; the fetch knows why."""

    category = Category.REGISTRY_UNAVAILABLE


class ProxyFailedError(ImagedError):
    """A proxy snapshotter cannot be reached, does not answer, fails, or says what cannot be; the
    message names it."""

    category = Category.PROXY_FAILED


class QueueFullError(ImagedError):
    """Too many of these wait or run already: pulls, clients that watch."""

    category = Category.EXHAUSTED


class SignatureRejectedError(ImagedError):
    """Verification refused the image."""

    category = Category.SIGNATURE_REJECTED


class NotDecryptableError(ImagedError):
    """A layer is encrypted, and this node may not decrypt it; the message names for whom it is."""

    category = Category.PERMISSION_DENIED


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one registry host, as a failed pull reports it."""

    host: str
    """Host and port, as asked."""
    url: str
    """Without query, user information or any other secret."""
    outcome: str
    """What the host answered, or why it could not be reached."""
    seconds: float
    status: int | None = None
    codes: tuple[str, ...] = ()
    """Error codes of the registry's error body (distribution spec, "Error Codes")."""


class RegistryError(ImagedError):
    """Registry hosts did not give what was asked for. Carries every attempt, in order.

    `category` is one of NOT_FOUND, UNAUTHENTICATED, PERMISSION_DENIED, REGISTRY_UNAVAILABLE:
    the most telling answer among the hosts.
    """

    def __init__(self, category: Category, what: str, attempts: tuple[Attempt, ...]) -> None:
        self.category = category
        self.what = what
        self.attempts = attempts
        same: dict[tuple[str, str], list[float]] = {}
        for attempt in attempts:
            same.setdefault((attempt.host, attempt.outcome), []).append(attempt.seconds)
        tried = "; ".join(
            f"{host}: {outcome} ({_times(len(seconds))}{sum(seconds):.1f} s)"
            for (host, outcome), seconds in same.items()
        )
        super().__init__(f"{what}: {tried}" if tried else what)


def _times(number: int) -> str:
    return f"{number} times, " if number > 1 else ""
