"""From the error taxonomy to gRPC codes, with the prefixes that the kubelet reads."""

from __future__ import annotations

import grpc

from cri_imaged.errors import Category, ImagedError
from cri_imaged.limits import ERROR_MESSAGE_BYTES

_CODES = {
    Category.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Category.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Category.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Category.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Category.REGISTRY_UNAVAILABLE: grpc.StatusCode.UNKNOWN,
    Category.SIGNATURE_REJECTED: grpc.StatusCode.UNKNOWN,
    Category.CORRUPT: grpc.StatusCode.FAILED_PRECONDITION,
    Category.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_PREFIXES = {
    Category.REGISTRY_UNAVAILABLE: "RegistryUnavailable: ",
    Category.SIGNATURE_REJECTED: "SignatureValidationFailed: ",
}


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
