"""JSON decoders, each made once. What msgspec knows of a type it works out where that is first
used, and two threads that do so at once for a Struct that holds another one crash the process."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_making = threading.Lock()
_made: dict[tuple[Any, bool], msgspec.json.Decoder[Any]] = {}


def decoder(kind: type[T], *, strict: bool = True) -> msgspec.json.Decoder[T]:
    """Of values of `kind`. Without `strict` a number may stand in a string."""
    key = (kind, strict)
    if key not in _made:
        with _making:
            _made[key] = msgspec.json.Decoder(kind, strict=strict)
    return _made[key]
