"""How long a silent or slow peer is borne (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from cri_imaged.registry.failures import HostFailure, Kind

_GRANULARITY = 0.005
"""Timers may be early by some milliseconds."""


@dataclass(frozen=True, slots=True)
class Patience:
    """The timeouts of responses, in seconds."""

    stall_timeout: float
    """Without a byte for this long, a body is resumed with another request."""
    progress_timeout: float | None
    """Without a byte for this long, over all requests for one content, the pull ends."""
    min_rate: int
    """Bytes a second; a body slower than this for `stall_timeout` is resumed elsewhere."""


class Watch:
    """Measures one content's silence and pace."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._silent = 0.0
        self._seconds = 0.0
        self._bytes = 0

    def limit(self, seconds: float | None = None) -> float:
        """Seconds of silence to bear from now on; where given, not more than `seconds`."""
        bounds = [self._patience.stall_timeout]
        if self._patience.progress_timeout is not None:
            bounds.append(self._patience.progress_timeout - self._silent)
        if seconds is not None:
            bounds.append(seconds)
        return min(bounds)

    def heard(self, size: int, waited: float) -> None:
        """`size` bytes came after `waited` seconds."""
        self._silent = 0.0
        self._bytes += size
        self._seconds += waited

    def fail(self, failure: HostFailure, waited: float) -> HostFailure:
        """What a request's failure after `waited` seconds of silence means for the content."""
        if failure.status is not None:
            self._silent = 0.0
            return failure
        self._silent += waited
        timeout = self._patience.progress_timeout
        if timeout is None or self._silent < timeout - _GRANULARITY:
            return failure
        return HostFailure(
            Kind.PROGRESS, f"not a byte in {timeout:g} s (image_pull_progress_timeout)"
        )

    def too_slow(self) -> bool:
        """Whether the last `stall_timeout` seconds of waiting brought too little."""
        if self._seconds < self._patience.stall_timeout:
            return False
        slow = self._bytes < self._patience.min_rate * self._seconds
        self._seconds, self._bytes = 0.0, 0
        return slow
