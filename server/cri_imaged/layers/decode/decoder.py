"""What every decoder is: one encoding of a layer's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from cri_imaged.limits import Limits
from cri_imaged.ports import LayerSecret


class Encoded(msgspec.Struct, frozen=True):
    """What a layer's descriptor says of how its bytes are encoded."""

    media_type: str
    annotations: Mapping[str, str] = {}
    """Those that the type's decoder reads (`Decoder.annotations`)."""
    size: int = 0
    """Bytes of the whole blob as its manifest says; 0 where nobody does."""
    secret: LayerSecret | None = None
    """What decrypts it, in its decoder's process alone."""


Decode: TypeAlias = Callable[[Iterable[bytes], Encoded, Limits], Iterator[bytes]]
"""Gives the uncompressed stream of the given bytes, in non-empty chunks of some size.

Raises:
    CorruptContentError: damaged or truncated, naming where; or garbage after the end.
    LimitExceededError: ratio, number of members, memory.
"""


class Decoder(NamedTuple):
    """One way to read a layer's bytes."""

    decode: Decode
    is_native: bool = True
    """Whether it runs native code over the bytes: then it has a process of its own."""
    annotations: frozenset[str] = frozenset()
    """Keys of the descriptor's annotations that it reads."""
    prepare: Callable[[], object] | None = None
    """Loads what few layers need, before its process may load nothing any more."""
