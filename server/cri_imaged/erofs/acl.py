"""POSIX access control lists, judged and changed as the kernel does when it sets them (acl(5),
kernel fs/posix_acl.c): an image's file system shows them as they are."""

from __future__ import annotations

import struct
from collections.abc import Iterable

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ORDER = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)
_SHIFTS = {_USER_OBJ: 6, _OTHER: 0}
_NOBODY = 0xFFFFFFFF


def valid_list(value: bytes) -> bytes | None:
    """An access control list as the kernel gives it back; None where it would refuse it."""
    count, rest = divmod(len(value) - _HEADER.size, _ENTRY.size)
    if count < 0 or rest or _HEADER.unpack_from(value)[0] != _VERSION:
        return None
    entries = list(_ENTRY.iter_unpack(value[_HEADER.size :]))
    tags = [tag for tag, _, _ in entries]
    places = [_ORDER.index(tag) if tag in _ORDER else -1 for tag in tags]
    single = all(tags.count(tag) == 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
    named = _USER in tags or _GROUP in tags
    if not single or places != sorted(places) or -1 in places or tags.count(_MASK) > 1:
        return None
    if (named and _MASK not in tags) or any(permissions > 7 for _, permissions, _ in entries):
        return None
    if any(tag in (_USER, _GROUP) and who == _NOBODY for tag, _, who in entries):
        return None
    return _packed(
        (tag, permissions, who if tag in (_USER, _GROUP) else _NOBODY)
        for tag, permissions, who in entries
    )


def with_mode(value: bytes, mode: int) -> bytes | None:
    """A valid access ACL after chmod(2); None where it says no more than the mode."""
    entries = list(_ENTRY.iter_unpack(value[_HEADER.size :]))
    tags = {tag for tag, _, _ in entries}
    if not tags & {_USER, _GROUP, _MASK}:
        return None
    shifts = {**_SHIFTS, _MASK if _MASK in tags else _GROUP_OBJ: 3}
    return _packed(
        (tag, mode >> shifts[tag] & 7 if tag in shifts else permissions, who)
        for tag, permissions, who in entries
    )


def _packed(entries: Iterable[tuple[int, int, int]]) -> bytes:
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
