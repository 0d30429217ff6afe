"""zstd (RFC 8878; frames and skippable frames), by the standard library's binding."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from cri_imaged.errors import WindowExceededError
from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.layers.decode.members import Codec, MemberDecoder, decode_members
from cri_imaged.limits import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""After a first byte of 0x50 to 0x5f."""


def is_zstd(head: bytes) -> bool:
    """Whether a stream that begins with these four bytes is zstd."""
    return head.startswith(_MAGIC) or (
        head[:1] in {bytes([first]) for first in range(0x50, 0x60)} and head[1:4] == _SKIPPABLE
    )


def _begin(limits: Limits) -> MemberDecoder:
    window = limits.zstd_window_bytes.bit_length() - 1
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})


def _exceeded(error: BaseException, limits: Limits) -> WindowExceededError | None:
    if "memory" not in str(error):  # its word for a window above the cap
        return None
    most = limits.zstd_window_bytes
    return WindowExceededError(f"zstd window is larger than {most} bytes (zstd_window_bytes)")


_CODEC = Codec("zstd", _begin, (zstd.ZstdError, EOFError), _exceeded)


def _decode(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    return decode_members(source, _CODEC, limits, encoded.size)


ZSTD = Decoder(_decode)
