"""Blobs that are one file each: read as the archive that would hold it, and nothing else.

The file is the first user's, may be read by all, and is as old as the Unix epoch: the same blob
gives the same tree, always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.limits import Limits
from cri_imaged.oci.descriptor import TITLE

_BLOCK = 512
_NAME_BYTES = 100
_OCTAL_DIGITS = 11


def _decode(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    name = encoded.annotations[TITLE].encode()
    if len(name) > _NAME_BYTES:
        yield _header(b"././@LongLink", len(name), b"L") + name + bytes(-len(name) % _BLOCK)
    yield _header(name[:_NAME_BYTES], encoded.size, b"0")
    seen = 0
    for chunk in source:
        seen += len(chunk)
        yield chunk
    if seen != encoded.size:
        raise CorruptContentError(f"blob has {seen} bytes, its manifest says {encoded.size}")
    yield bytes(-seen % _BLOCK + 2 * _BLOCK)


def _header(name: bytes, size: int, kind: bytes) -> bytes:
    """Of an archive in GNU's format (GNU tar manual, "Basic Tar Format")."""
    digits = b"%0*o\0" % (_OCTAL_DIGITS, size)
    if len(digits) > _OCTAL_DIGITS + 1:
        digits = b"\x80" + size.to_bytes(_OCTAL_DIGITS, "big")
    fields = (
        name.ljust(_NAME_BYTES, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        digits,
        b"00000000000\0",
        b" " * 8,
        kind.ljust(101, b"\0"),
        b"ustar  \0",
    )
    block = b"".join(fields).ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


FILE = Decoder(_decode, is_native=False, annotations=frozenset({TITLE}))
