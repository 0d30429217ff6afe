"""Every cap on what a stranger controls, in one place. Configurable under `[image.limits]`.

Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import msgspec

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

ERROR_MESSAGE_BYTES = 4 * KIB
"""gRPC trailers are limited; a longer message would turn the status into INTERNAL."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Caps; the defaults are the product's."""

    manifest_bytes: int = 4 * MIB
    config_bytes: int = 8 * MIB
    token_bytes: int = 1 * MIB
    error_body_bytes: int = 64 * KIB
    reference_bytes: int = 4 * KIB
    index_depth: int = 3
    index_entries: int = 10_000
    layers: int = 512
    layer_bytes: int = 128 * GIB
    """Of one layer, uncompressed; and of its blob."""
    layer_entries: int = 4_000_000
    expansion_ratio: int = 300
    """Uncompressed to compressed bytes, beyond the first `expansion_free_bytes`."""
    expansion_free_bytes: int = 1 * GIB
    pax_header_bytes: int = 1 * MIB
    path_bytes: int = 4096
    """A path inside a layer, and a link's target."""
    symlinks_followed: int = 255
    seal_bytes: int = 32 * MIB
    """Paths that one layer leaves to be done at its seal: whiteouts, implicit directories, links
    to layers below."""
    zstd_window_bytes: int = 128 * MIB
    worker_memory_bytes: int = 1 * GIB
    """Address space of one layer worker."""
    redirects: int = 10
    authentication_rounds: int = 5
    tries_per_request: int = 5
    retry_seconds: float = 60.0
    """All tries of one request end within this."""
    running_pulls: int = 64
    """Pulls at work at the same time; more wait."""
    waiting_pulls: int = 1024
    """Pulls that wait; more are refused."""
    resumable_bytes: int = 20 * GIB
    resumable_seconds: float = 24 * 3600.0
