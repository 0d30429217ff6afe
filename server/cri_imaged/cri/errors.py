"""From the error taxonomy to gRPC codes, with the prefixes that the kubelet reads."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import grpc

from cri_imaged.errors import Category, ImagedError, LimitExceededError
from cri_imaged.limits import ERROR_MESSAGE_BYTES

_CODES = {
    Category.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Category.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Category.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Category.IN_USE: grpc.StatusCode.FAILED_PRECONDITION,
    Category.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Category.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Category.REGISTRY_UNAVAILABLE: grpc.StatusCode.UNKNOWN,
    Category.SIGNATURE_REJECTED: grpc.StatusCode.UNKNOWN,
    Category.CORRUPT: grpc.StatusCode.FAILED_PRECONDITION,
    Category.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Category.DISK_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Category.PROXY_FAILED: grpc.StatusCode.UNAVAILABLE,
}
_PREFIXES = {
    Category.REGISTRY_UNAVAILABLE: "RegistryUnavailable: ",
    Category.SIGNATURE_REJECTED: "SignatureValidationFailed: ",
}


def explained(error: Exception) -> Exception:
    """What a client should be told, where this process has too little of what it needs: whatever
    seemed wrong for want of it."""
    causes = (cause for cause in _chain(error) if isinstance(cause, OSError))
    if any(cause.errno in (errno.EMFILE, errno.ENFILE) for cause in causes):
        return LimitExceededError(
            "too many files and connections are open; pull less at a time, or raise the daemon's "
            "limit (ulimit -n, LimitNOFILE)"
        )
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised in place of."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def status_of(error: ImagedError) -> tuple[grpc.StatusCode, str]:
    """The code and message that a client gets."""
    return _CODES[error.category], cut(_PREFIXES.get(error.category, "") + str(error))


def cut(message: str) -> str:
    """`message`, at most as long as gRPC carries safely, without control characters."""
    printable = "".join(char if char.isprintable() else "�" for char in message)
    encoded = printable.encode(errors="replace")
    if len(encoded) <= ERROR_MESSAGE_BYTES:
        return printable
    return encoded[: ERROR_MESSAGE_BYTES - 3].decode(errors="ignore") + "…"
