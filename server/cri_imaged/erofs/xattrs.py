"""Extended attributes behind an inode: inline, or shared with others by their address."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from cri_imaged.erofs.format import damaged

_PREFIXES = {b"user.": 1, b"trusted.": 4, b"security.": 6}
_WHOLE = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_NAMES = {index: name for name, index in (*_PREFIXES.items(), *_WHOLE.items())}
_HEADER = struct.Struct("<IB7x")
LIST_HEADER = _HEADER.size
"""Bytes before the attributes of an inode that has some."""
_ENTRY = struct.Struct("<BBH")
_MOST_SHARED = 255
_NAME_BYTES = 255
_VALUE_BYTES = 0xFFFF


def encode_xattr(name: bytes, value: bytes) -> bytes | None:
    """One attribute, filled up to 4 bytes; None where the format has no such name, or no room."""
    if name in _WHOLE:
        index, rest = _WHOLE[name], b""
    else:
        prefix, dot, rest = name.partition(b".")
        index = _PREFIXES.get(prefix + dot, 0)
        if not index or not rest or b"\0" in rest:
            return None
    if len(name) > _NAME_BYTES or len(value) > _VALUE_BYTES:
        return None
    entry = _ENTRY.pack(len(rest), index, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)


def encode_body(
    entries: Mapping[bytes, bytes], shared: Callable[[bytes], int | None], room: int
) -> tuple[bytes, int]:
    """What follows an inode with these attributes, at most `room` bytes, and how many of them it
    has no room for. `shared`: where an attribute is that others have too, in units of 4 bytes."""
    if not entries:
        return b"", 0
    left_out = 0
    room -= _HEADER.size
    ids: list[int] = []
    inline = b""
    for _, entry in sorted(entries.items()):
        place = shared(entry) if len(ids) < _MOST_SHARED else None
        size = len(entry) if place is None else 4
        if size > room:
            left_out += 1
            continue
        room -= size
        if place is None:
            inline += entry
        else:
            ids.append(place)
    if not ids and not inline:
        return b"", left_out
    return _HEADER.pack(0, len(ids)) + struct.pack(f"<{len(ids)}I", *ids) + inline, left_out


def decode_body(body: bytes, at: Callable[[int], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of what `encode_body` wrote. `at` gives what is at the address of a shared
    one.

    Raises:
        CorruptContentError
    """
    for place in shared_ones(body):
        yield decode_one(at(4 * place))
    yield from inline_ones(body)


def shared_ones(body: bytes) -> tuple[int, ...]:
    """Where those are that others have too, in units of 4 bytes. Raises `CorruptContentError`."""
    if not body:
        return ()
    try:
        _, count = _HEADER.unpack_from(body)
        return struct.unpack_from(f"<{count}I", body, _HEADER.size)
    except struct.error as error:
        raise damaged("an extended attribute") from error


def inline_ones(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of those that are in `body`. Raises `CorruptContentError`."""
    position = _HEADER.size + 4 * len(shared_ones(body))
    while position < len(body):
        name, value, position = _decode(body, position)
        yield name, value


def decode_one(data: bytes) -> tuple[bytes, bytes]:
    """Name and value of the one that `data` begins with. Raises `CorruptContentError`."""
    return _decode(data, 0)[:2]


def _decode(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    try:
        length, index, size = _ENTRY.unpack_from(data, at)
        prefix = _NAMES[index]
    except (struct.error, KeyError) as error:
        raise damaged("an extended attribute") from error
    begin = at + _ENTRY.size
    end = begin + length + size
    rest = data[begin : begin + length]
    if end > len(data) or bool(rest) == (prefix in _WHOLE) or b"\0" in rest:
        raise damaged("an extended attribute")
    return prefix + rest, data[begin + length : end], end + -end % 4
