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
    """Of one manifest or index."""
    config_bytes: int = 8 * MIB
    """Of one image config."""
    token_bytes: int = 1 * MIB
    """Of a token service's answer."""
    error_body_bytes: int = 64 * KIB
    """Read from an error answer; the rest is left."""
    reference_bytes: int = 4 * KIB
    """Of an image's name in a request."""
    index_depth: int = 3
    """Indexes within indexes."""
    index_entries: int = 10_000
    """Manifests that one index lists."""
    layers: int = 512
    """Layers of one image."""
    layer_bytes: int = 128 * GIB
    """Of one layer, uncompressed and on disk; and of its blob."""
    layer_entries: int = 4_000_000
    """Entries of one layer's archive."""
    expansion_ratio: int = 300
    """Uncompressed to compressed bytes, beyond the first `expansion_free_bytes`."""
    expansion_free_bytes: int = 1 * GIB
    """Uncompressed bytes of a layer to which `expansion_ratio` does not apply."""
    pax_header_bytes: int = 1 * MIB
    """Of one PAX extended header."""
    path_bytes: int = 4096
    """A path inside a layer, and a link's target."""
    symlinks_followed: int = 255
    """Symbolic links followed while one path is resolved."""
    seal_bytes: int = 32 * MIB
    """Paths that one layer leaves to be done at its seal: whiteouts, implicit directories, links
    to layers below."""
    seal_directories: int = 8_000_000
    """Directories of the layers below that are opened to seal one layer."""
    zstd_window_bytes: int = 128 * MIB
    """Memory that a zstd stream may ask for."""
    worker_memory_bytes: int = 1 * GIB
    """Address space of one layer worker."""
    redirects: int = 10
    """Redirects followed for one request."""
    authentication_rounds: int = 5
    """Challenges answered for one request."""
    tries_per_request: int = 5
    """Times that one request is tried at one host."""
    retry_seconds: float = 60.0
    """All tries of a request that brings nothing end within this; each host has one in any case."""
    running_pulls: int = 64
    """Pulls at work at the same time; more wait."""
    waiting_pulls: int = 1024
    """Pulls that wait; more are refused."""
    resumable_bytes: int = 20 * GIB
    """Disk space of unfinished downloads that are kept to be resumed."""
    resumable_seconds: float = 24 * 3600.0
    """Age up to which unfinished downloads are kept to be resumed."""
