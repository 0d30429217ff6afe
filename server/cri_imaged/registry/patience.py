"""How long a silent or slow peer is borne (pure)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The timeouts of responses, in seconds."""

    stall_timeout: float
    """Without a byte for this long, a body is resumed with another request."""
    min_rate: int
    """Bytes a second; a body slower than this for `stall_timeout` is resumed elsewhere."""


class Watch:
    """Measures one content's pace."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._seconds = 0.0
        self._bytes = 0

    def limit(self, seconds: float | None = None) -> float:
        """Seconds of silence to bear from now on; where given, not more than `seconds`."""
        stall = self._patience.stall_timeout
        return stall if seconds is None else min(stall, seconds)

    def heard(self, size: int, waited: float) -> None:
        """`size` bytes came after `waited` seconds."""
        self._bytes += size
        self._seconds += waited

    def too_slow(self) -> bool:
        """Whether the last `stall_timeout` seconds of waiting brought too little."""
        if self._seconds < self._patience.stall_timeout:
            return False
        slow = self._bytes < self._patience.min_rate * self._seconds
        self._seconds, self._bytes = 0.0, 0
        return slow
