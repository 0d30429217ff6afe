"""What came of blobs on their way in and waits for the disk: bounded for each, and for all."""

from __future__ import annotations

_MOST = 4 << 20
"""Bytes that may wait of one blob: with fewer, a disk that is as fast as the network stands still
whenever the event loop is busy."""
_LEAST = 256 << 10
"""Bytes that may wait of one blob, however many others are on their way."""
_ALL = 16 << 20
"""Bytes that may wait of all of them together, but for the least of each."""


class Backlog:
    """How much waits in one store."""

    def __init__(self) -> None:
        self.bytes = 0

    @property
    def share(self) -> int:
        """Bytes that may wait of one blob: the more wait of all, the fewer."""
        return max(_LEAST, min(_MOST, (_ALL - self.bytes) // 4))
