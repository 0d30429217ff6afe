"""Numbers and PAX records, as the headers of a tar archive write them.

Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
"Basic Tar Format" (base-256). All functions raise `ValueError` on what is malformed.
"""

from __future__ import annotations

import re
from zlib import adler32 as _adler32

_DECIMAL = re.compile(rb"[+-]?[0-9]{1,40}")
_TIME = re.compile(rb"([+-]?)([0-9]{1,20})(?:\.([0-9]*))?")
_NO_CHANGE = (1 << 32) - 1
_INT64 = 1 << 63
_NANOSECONDS = 1_000_000_000
_SECONDS_LIMIT = 1 << 63


def number(field: bytes) -> int:
    """A numeric header field: octal, filled up with spaces and NULs, or base-256."""
    digits = field.strip(b" \0")
    if not digits.isdigit():
        if field[0] & 0x80:
            return _base256(field)
        digits = digits.partition(b"\0")[0]
        if not digits:
            return 0
        if not digits.isdigit():
            raise ValueError(f"{digits!r} is not an octal number")
    try:
        return int(digits, 8)
    except ValueError:
        raise ValueError(f"{digits!r} is not an octal number") from None


def _base256(field: bytes) -> int:
    value = int.from_bytes(field, "big")
    bits = 8 * len(field) - 1
    value -= 1 << bits  # the marker bit
    if field[0] & 0x40:
        value -= 1 << bits
    return value


def sums_up(block: bytes) -> bool:
    """Whether a header block's bytes, its checksum field taken as spaces, add up to what that field
    says; over signed bytes, too, as some historic writers added them.

    Adler-32's low half is 1 + the sum of the bytes as long as that stays under 65521, which it
    does for 256 bytes: far quicker than `sum`.
    """
    total = (
        (_adler32(block[:148]) & 0xFFFF)
        + (_adler32(block[156:412]) & 0xFFFF)
        + (_adler32(block[412:]) & 0xFFFF)
    )
    excess = total - 3 + 8 * 0x20 - number(block[148:156])
    return not excess or excess == 256 * sum(byte > 0x7F for byte in block[:148] + block[156:])


def decimal(value: bytes) -> int:
    """A PAX number."""
    if not _DECIMAL.fullmatch(value):
        raise ValueError(f"{value[:40]!r} is not a decimal number")
    return int(value)


def seconds(value: bytes) -> int:
    """A PAX time as nanoseconds, rounded down."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"{value[:40]!r} is not a time")
    sign, whole, fraction = match.groups()
    digits = (fraction or b"")[:9].ljust(9, b"0")
    nanoseconds = int(whole) * _NANOSECONDS + int(digits)
    if sign == b"-":
        lost = bool((fraction or b"")[9:].strip(b"0"))
        nanoseconds = -nanoseconds - lost
    return in_time(nanoseconds)


def owner(number: int) -> int:
    """The user's or group's ID that `number` is for the kernel, which takes 32 bits of it, as it is
    when another runtime passes it on to chown. All ones would mean "no change" there: such files
    stay root's, who unpacks them."""
    if not -_INT64 <= number < _INT64:
        raise ValueError(f"owner {number} is out of range")
    kept = number & _NO_CHANGE
    return 0 if kept == _NO_CHANGE else kept


def in_time(nanoseconds: int) -> int:
    """`nanoseconds`, if a kernel can hold them."""
    if not -_SECONDS_LIMIT <= nanoseconds // _NANOSECONDS < _SECONDS_LIMIT:
        raise ValueError(f"time {nanoseconds // _NANOSECONDS} s is out of range")
    return nanoseconds


def pax_records(body: bytes) -> list[tuple[bytes, bytes]]:
    """The records `LENGTH KEY=VALUE\\n` of a PAX header, in order."""
    records = []
    at, end = 0, len(body)
    while at < end:
        space = body.find(b" ", at, at + 9)
        digits = body[at:space] if space >= 0 else b""
        if not digits.isdigit():
            raise ValueError(f"PAX record at byte {at} has no length")
        stop = at + int(digits)
        if stop > end or stop <= space + 1 or body[stop - 1] != 0x0A:
            raise ValueError(f"PAX record at byte {at} has a wrong length")
        key, equals, value = body[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise ValueError(f"PAX record at byte {at} has no key")
        records.append((key, value))
        at = stop
    return records
