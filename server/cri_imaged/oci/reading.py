"""Documents of strangers as objects, and how much memory it takes to make them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.oci import lenient_json

T = TypeVar("T")

_COPIES = 8
"""Of a document that are held at once, at most: its bytes, its text at four bytes a character, and
that encoded again with three bytes for each that was none."""
_VALUE_BYTES = 128
"""Of one value as an object, with its place in a list or mapping."""
_DIFF_ID_BYTES = 1 << 10
"""Of one in a config, with the white space around it."""


def decode(data: bytes | msgspec.Raw, into: type[T], what: str) -> T:
    """`data` as `into`. Raises `CorruptContentError`, which names `what`."""
    try:
        return lenient_json.decode(data, into)
    except ValueError as error:
        raise CorruptContentError(f"{what} is malformed: {str(error)[:200]}") from None


def refuse_many_values(data: bytes, limits: Limits) -> None:
    """Raises `LimitExceededError` where a manifest or index would make more objects than
    `manifest_memory` counts with."""
    values = data.count(b",")
    if values > limits.manifest_values:
        raise LimitExceededError(
            f"manifest has {values} values, limit {limits.manifest_values} (manifest_values)"
        )


def manifest_memory(size: int, limits: Limits) -> int:
    """Bytes of memory that it takes to read a manifest or index of `size` bytes, at most."""
    return _COPIES * size + _VALUE_BYTES * min(size // 2, limits.manifest_values)


def diff_ids_bytes(limits: Limits) -> int:
    """Bytes that a config's list of diffIDs may have in JSON."""
    return limits.layers * _DIFF_ID_BYTES


def config_memory(size: int, limits: Limits) -> int:
    """Bytes of memory that it takes to read a config of `size` bytes, at most: only its diffIDs
    become objects."""
    return _COPIES * size + _VALUE_BYTES * min(size, diff_ids_bytes(limits)) // 2
