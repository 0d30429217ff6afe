"""What is told of a pull that ended: how it went, and why it took as long as it did."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cri_imaged.errors import Category, ImagedError, NoSpaceError, RegistryError
from cri_imaged.images.timeline import Stage
from cri_imaged.obs.tracing import Origin
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Account, Priority

Source: TypeAlias = Literal["fetched", "shared", "here", "unpacked"]
"""Whence a layer's bytes came: this pull fetched them, another one did meanwhile, the blob was here
already, or what it unpacks to was."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer, or blob that is not unpacked, of a pull."""

    digest: Digest
    size: int
    """Compressed bytes."""
    source: Source
    media_type: str = ""
    stages: tuple[Stage, ...] = ()
    """What was done for it, in order of their begin."""
    account: Account = field(default_factory=Account)
    """Of its fetch."""

    @property
    def reused(self) -> int:
        """Bytes that did not have to come."""
        return self.size if self.source in ("here", "unpacked") else 0


@dataclass(frozen=True, slots=True)
class Cause:
    """For whom a pull is."""

    pod: str = ""
    """`namespace/name`; empty where the client does not say."""
    trace: Origin | None = None
    """The client's trace, where it has one."""
    priority: Priority = Priority.CLIENT

    @property
    def traceparent(self) -> str:
        """What registries may be told of it; empty where there is none."""
        return self.trace.traceparent if self.trace else ""


@dataclass(frozen=True, slots=True)
class PullReport:
    """One pull that is over."""

    reference: str
    handler: str
    began: float
    """Unix seconds: when it was asked for."""
    seconds: float
    outcome: str
    """`success`, `failure` or `cancelled`."""
    pod: str = ""
    """For which it was, `namespace/name`; empty where the client does not say."""
    image_id: str = ""
    image_bytes: int = 0
    """Compressed size of the image."""
    received: int = 0
    """Bytes of layers that came over the network."""
    warnings: tuple[str, ...] = ()
    """What the image's user may miss."""
    reason: str = ""
    """Why it failed, as `reason_of` has it; empty where it did not."""
    error: str = ""
    """The failure's message; holds no secret."""
    snapshotter: str = ""
    trace: Origin | None = None
    """To which the pull belongs."""
    stages: tuple[Stage, ...] = ()
    account: Account = field(default_factory=Account)
    """Of the resolving."""
    layers: tuple[LayerReport, ...] = ()
    layers_left_out: int = 0

    @property
    def reused(self) -> int:
        """Bytes of layers that did not have to come."""
        return sum(layer.reused for layer in self.layers)

    @property
    def trace_id(self) -> str:
        """Of `trace`; empty where there is none."""
        return self.trace.trace_id if self.trace else ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Those that served anything."""
        accounts = (self.account, *(layer.account for layer in self.layers))
        return tuple(dict.fromkeys(host for account in accounts for host in account.hosts))

    @property
    def retries(self) -> int:
        """Requests that failed."""
        return self.account.failed + sum(layer.account.failed for layer in self.layers)


_TOO_MANY_REQUESTS = 429
_REASONS = {
    Category.INVALID: "invalid",
    Category.NOT_FOUND: "not_found",
    Category.UNAUTHENTICATED: "auth",
    Category.PERMISSION_DENIED: "auth",
    Category.REGISTRY_UNAVAILABLE: "network",
    Category.SIGNATURE_REJECTED: "verification",
    Category.CORRUPT: "corrupt",
    Category.EXHAUSTED: "limit",
    Category.DISK_FAILED: "disk",
}
REASONS = tuple(dict.fromkeys((*_REASONS.values(), "rate_limit", "cancelled", "internal")))
"""All that `reason_of` may say, but nothing."""


def reason_of(failure: BaseException | None) -> str:
    """Why a pull failed, in one word; empty where it did not."""
    if failure is None:
        return ""
    if isinstance(failure, asyncio.CancelledError):
        return "cancelled"
    if isinstance(failure, NoSpaceError):
        return "disk"
    if isinstance(failure, RegistryError) and any(
        attempt.status == _TOO_MANY_REQUESTS for attempt in failure.attempts
    ):
        return "rate_limit"
    if isinstance(failure, ImagedError):
        return _REASONS.get(failure.category, "internal")
    return "internal"
