"""A layer's bytes in a worker: as far as the daemon says that they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from cri_imaged.layers.worker import protocol

_READ = 256 << 10


class AbandonedError(Exception):
    """The daemon closed the pipe of watermarks: nobody waits for an answer any more."""


def arriving(source: int, watermarks: int) -> Iterator[bytes]:
    """The bytes of the file `source` up to each watermark that the pipe tells, to the last.

    Raises:
        AbandonedError, OSError
    """
    at = available = 0
    complete = False
    while True:
        if at < available:
            chunk = os.pread(source, min(_READ, available - at), at)
            if not chunk:
                raise OSError(0, f"layer source ends at {at} of {available} bytes")
            at += len(chunk)
            yield chunk
        elif complete:
            return
        else:
            available, complete = protocol.parse_watermark(_read(watermarks))


def _read(watermarks: int) -> bytes:
    message = b""
    while len(message) < protocol.WATERMARK_BYTES:
        part = os.read(watermarks, protocol.WATERMARK_BYTES - len(message))
        if not part:
            raise AbandonedError
        message += part
    return message
