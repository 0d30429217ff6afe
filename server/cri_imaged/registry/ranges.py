"""Whether an answer is what was asked for (pure; RFC 9110, 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cri_imaged.registry.failures import HostFailure, Kind

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def check_range(headers: Mapping[str, str], start: int, end: int, size: int) -> None:
    """Check that a 206 has the bytes from `start` up to `end`, all of them and nothing else, of a
    content of `size` bytes.

    Raises:
        HostFailure: it has another range, or several, or does not say.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None or (int(found[1]), int(found[2])) != (start, end - 1):
        raise HostFailure(
            Kind.REFUSED, f"answers with another range than the one from {start}", status=206
        )
    if found[3] != "*" and int(found[3]) != size:
        raise HostFailure(Kind.CORRUPT, f"offers {found[3]} bytes, want {size}", status=206)
    _check_length(headers, end - start, 206)
    if "Content-Encoding" in headers and "Content-Length" not in headers:
        raise HostFailure(
            Kind.REFUSED, f"answers with the range from {start} in another coding", status=206
        )


def check_whole(status: int, headers: Mapping[str, str], size: int) -> None:
    """Check that an answer to a request without a range offers a content of `size` bytes.

    Raises:
        HostFailure: another size, or a part of it.
    """
    if status == 206:
        check_range(headers, 0, size, size)
    else:
        _check_length(headers, size, status)


def _check_length(headers: Mapping[str, str], size: int, status: int) -> None:
    length = headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) != size:
        raise HostFailure(Kind.CORRUPT, f"offers {length[:20]} bytes, want {size}", status=status)
