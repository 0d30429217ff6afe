"""The caps on what a stranger controls, in one place. Configurable under `[image.limits]`; what a
protocol fixes stands with its parser.

Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import msgspec

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

ERROR_MESSAGE_BYTES = 4 * KIB
"""gRPC trailers are limited; a longer message would turn the status into INTERNAL."""

LOG_HELD_BYTES = 4 * MIB
"""Lines of the log that wait for a reader; more are dropped."""
METRICS_CONNECTIONS = 64
"""Clients of the metrics port at the same time; the one that is there longest gives way."""
METRICS_REQUEST_BYTES = 16 * KIB
"""Of one request to the metrics port."""
METRICS_REQUEST_SECONDS = 10.0
"""For one request to the metrics port and its answer."""
METRIC_REGISTRIES = 100
"""Registries that have series of their own; the others share one."""
PAGE_WATCHERS = 8
"""Clients that watch the page at the same time; more are refused."""
READY_SECONDS = 5.0
"""In which the database has to answer for the daemon to be ready."""
WATCHERS = 128
"""Clients that watch pulls at the same time; more are refused."""
PINS = 1000
"""Names that clients pin; each image that changes is compared with them."""
VERIFIER_OUTPUT_BYTES = 32 * KIB
"""Kept of what a verifier prints, as containerd keeps it; the rest is read and dropped."""
TAGS = 10_000
"""Of one repository that are listed."""
REGISTRY_QUESTIONS = 16
"""Lists of tags and logins that clients wait for at the same time; more are refused."""
TAG_PAGE_BYTES = 1 * MIB
"""Of one answer that lists tags."""
TAG_PAGES = 100
"""Answers that one list of tags may be spread over."""
REFERRER_PAGES = 16
"""Answers that one list of referrers may be spread over."""
ACCOUNT_FAILURES = 10
"""Failed requests for one blob that the report on a pull tells of."""
PULL_REPORTS = 1000
"""Reports on pulls that are kept."""
PULL_COUNTS = 10_000
"""Names, images and handlers whose pulls are counted."""
REPORTED_LAYERS = 100
"""Layers that a kept report tells of."""
REPORT_BYTES = 64 * KIB
"""Of a kept report; it tells of fewer layers where it would be larger."""
LISTED_REPORTS_BYTES = 4 * MIB
"""Of kept reports, the newest, that one answer lists."""
ARCHIVES = 8
"""Archives of images that are imported and exported at the same time; more are refused."""
PRELOADED_ARCHIVES = 10_000
"""Archives in the preload folder."""
ARCHIVE_IDLE_SECONDS = 300.0
"""After which an import ends whose client sends nothing."""
ARCHIVE_ENTRIES = 50_000
"""Of one archive of images: each file is a blob for a while."""
ARCHIVE_NAME_BYTES = 8 * MIB
"""Names of one archive's entries, and what its links point at, all together."""
ARCHIVE_TAIL_BYTES = 1 * MIB
"""What may follow an archive's end marker."""
PROVIDER_PROCESSES = 8
"""Of one credential provider at the same time."""
PROVIDER_ANSWERS = 1000
"""That are kept of one credential provider."""
PROXY_SECONDS = 20.0
"""For an answer of a proxy snapshotter."""
PROXY_CLAIM_SECONDS = 60.0
"""The same, where it may ask a registry before it answers."""
PROXY_SNAPSHOTS = 100_000
"""Of all that a proxy snapshotter lists."""
UNREAD_ANSWERS_BYTES = 32 * MIB
"""Of large answers that clients have not read yet; further ones wait."""
UNREAD_ANSWER_SECONDS = 10.0
"""That a large answer waits for others to be read; then it is refused."""
VIEW_KEY_BYTES = 4 * KIB
"""Of a view's key, which a client chooses and every list of views repeats."""


BUILT_IN = frozenset(
    {
        "memory_bytes",
        "mounted_layers",
        "retry_seconds",
        "running_pulls",
        "tries_per_request",
        "waiting_pulls",
    }
)
"""Of `Limits`: what budgets, queues and clients were made with at the start."""


class Limits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Caps; the defaults are the product's. The whole daemon shares one of these, so that a reload
    changes it for what begins from then on."""

    manifest_bytes: int = 4 * MIB
    """Of one manifest or index."""
    manifest_values: int = 400_000
    """JSON values of one manifest or index."""
    manifest_text_bytes: int = 1 * MIB
    """Memory of a manifest's media types, URLs and annotations, which are kept for the whole pull.
    """
    config_bytes: int = 8 * MIB
    """Of one image config."""
    token_bytes: int = 256 * KIB
    """Of a token service's answer."""
    error_body_bytes: int = 64 * KIB
    """Read from an error answer; the rest is left."""
    response_header_bytes: int = 256 * KIB
    """Of one response's header fields, those of its interim responses too."""
    response_header_fields: int = 1000
    """Header fields of one response."""
    interim_responses: int = 32
    """Interim (1xx) responses before the final one."""
    signatures: int = 64
    """Signatures of one image that are looked at, in each of the ways to attach them."""
    signature_bytes: int = 1 * MIB
    """Of one payload that is signed, or of one bundle."""
    wrapped_keys: int = 32
    """Wrapped keys that are tried for each encrypted layer, of each scheme."""
    reference_bytes: int = 4 * KIB
    """Of an image's name in a request."""
    index_depth: int = 3
    """Indexes within indexes."""
    index_entries: int = 10_000
    """Manifests that one index lists."""
    index_candidates: int = 16
    """Manifests that are looked into where their index does not tell for which platform they are.
    """
    annotation_bytes: int = 256 * KIB
    """Of one descriptor's annotations, as JSON."""
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
    mounted_layers: int = 20_000
    """Layers that the erofs snapshotter has mounted at the same time; who asks for more is
    refused."""
    zstd_window_bytes: int = 128 * MIB
    """Memory that a zstd stream may ask for. What is over 8 MiB is drawn from `memory_bytes`."""
    memory_bytes: int = 128 * MIB
    """Memory of the daemon for all that is read of strangers at the same time: documents, say. What
    finds no room waits; what would need more is refused."""
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
    running_pulls: int = 128
    """Pulls at work at the same time; more wait. One registry may have as many as it leaves free, a
    namespace of it half of that, and one that has none yet finds a place at once."""
    waiting_pulls: int = 2048
    """Pulls that wait, shared in the same way; more are refused."""
    resumable_bytes: int = 20 * GIB
    """Disk space of unfinished downloads that are kept to be resumed."""
    resumable_seconds: float = 24 * 3600.0
    """Age up to which unfinished downloads are kept to be resumed."""

    def take_over(self, wanted: Limits) -> None:
        """Have the values of `wanted`, but for those that are `BUILT_IN`."""
        for name in self.__struct_fields__:
            if name not in BUILT_IN:
                setattr(self, name, getattr(wanted, name))
