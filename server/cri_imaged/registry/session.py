"""What every request of a client shares."""

from __future__ import annotations

from dataclasses import dataclass

from cri_imaged.registry.auth.authorizer import Authorizer
from cri_imaged.registry.http.transport import Transport
from cri_imaged.registry.patience import Patience
from cri_imaged.registry.retry import RetryPolicy
from cri_imaged.registry.tries import HostHealth
from cri_imaged.spool import Spools


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a large blob is fetched."""

    size: int
    """Bytes of one request; 0: one request for all."""
    requests: int
    """At the same time."""


@dataclass(frozen=True, slots=True)
class Session:
    """One client's, over all its pulls."""

    transport: Transport
    authorizer: Authorizer
    health: HostHealth
    policy: RetryPolicy
    patience: Patience
    chunks: Chunks
    spools: Spools
