"""gzip (RFC 1952; several members one after another), by isal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from isal import igzip_lib

from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.layers.decode.members import Codec, MemberDecoder, decode_members
from cri_imaged.limits import Limits

_ERROR: Any = igzip_lib.IsalError  # an exception class; its type stub says otherwise
_MAGIC = b"\x1f\x8b\x08"


def is_gzip(head: bytes) -> bool:
    """Whether a stream that begins with these four bytes is gzip."""
    return head.startswith(_MAGIC)


def _begin(limits: Limits) -> MemberDecoder:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


_CODEC = Codec("gzip", _begin, (_ERROR, EOFError))


def _decode(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    return decode_members(source, _CODEC, limits, encoded.size)


GZIP = Decoder(_decode)
