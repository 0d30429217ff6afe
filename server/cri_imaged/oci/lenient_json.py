"""JSON of strangers, read as leniently as by Go's reader: text that is none is replaced."""

from __future__ import annotations

import codecs
import math
import re
from typing import TypeVar

import msgspec

from cri_imaged.decoders import decoder

_T = TypeVar("_T")
_PIECE = 16 << 10
"""Bytes that are looked at at a time: each step keeps all other threads waiting."""
_LONE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
"""An escaped surrogate without its other half, where no backslash is escaped by another."""
_UNFINISHED = re.compile(rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
"""What cannot be told from the end of a piece alone."""
_UNFINISHED_BYTES = 11
_LONG_NUMBER = re.compile(r"[eE]\+?[0-9][0-9][0-9]|(?<![0-9])[0-9]{309}")
"""What may be of a number beyond 64 bits of floating point, or stand in a string."""
_LONG = 310
"""Characters of it that tell, with one before them."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*')


def decode(data: bytes | msgspec.Raw, into: type[_T], *, strict: bool = True) -> _T:
    """`data` as a value of `into`. Bytes that are not UTF-8 and lone surrogates are read as U+FFFD.
    Without `strict` a number may stand in a string.

    Raises:
        ValueError: no such JSON; says where and what, and shows no value.
    """
    made = decoder(into, strict=strict)
    try:
        try:
            return made.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return made.decode(_mended(memoryview(data)))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None


def _mended(data: memoryview) -> bytearray:
    # As a whole it would take forty times the memory of the data.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    mended = bytearray()
    rest = b""
    for start in range(0, len(data), _PIECE):
        is_last = start + _PIECE >= len(data)
        text = decoder.decode(data[start : start + _PIECE], is_last).encode()
        piece = (rest + text).replace(rb"\\", rb"\u005c")
        unfinished = _UNFINISHED.search(piece, max(0, len(piece) - _UNFINISHED_BYTES))
        end = len(piece) if unfinished is None or is_last else unfinished.start()
        mended += _LONE.sub(rb"\\ufffd", piece[:end])
        rest = piece[end:]
    return mended


def with_finite_numbers(text: str) -> str:
    """JSON with numbers beyond 64 bits of floating point as strings: Go's reader, and with it
    crictl, refuses the whole of what holds one."""
    for start in range(0, len(text), _PIECE):
        if _LONG_NUMBER.search(text, max(0, start - _LONG), start + _PIECE):
            return _TOKEN.sub(_finite, text)
    return text


def _finite(token: re.Match[str]) -> str:
    found = token[0]
    return found if found.startswith('"') or math.isfinite(float(found)) else f'"{found}"'
