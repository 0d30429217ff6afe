"""What a peer did that ends an exchange; none of it leaves this package but as a `HostFailure`."""

from __future__ import annotations


class EndedError(OSError):
    """The peer closed the connection before its answer was complete."""


class MalformedError(ValueError):
    """The peer's bytes are no HTTP, or more of it than is borne."""
