"""What `registry` gives to the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.reference import Reference
from cri_imaged.ports.values import Credentials


class ByteStream(Protocol):
    """A blob's or manifest's bytes from some offset to its end, resumed across hosts as needed."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks of any size. Ends at the content's end; raises `RegistryError` where no host
        could deliver the rest."""
        ...

    def discredit(self) -> None:
        """Say that what this stream delivered was wrong: the hosts it came from are not asked
        again through this fetcher, and are named in the log."""
        ...


class Fetcher(Protocol):
    """Fetches what one resolved reference is made of, from the hosts that may serve it."""

    def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractAsyncContextManager[ByteStream]:
        """Open `descriptor`'s bytes from `offset`. Its `urls` are honoured for foreign layers.

        Raises:
            RegistryError: no host has it, may give it to us, or can be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What a reference stood for when it was last pulled."""

    descriptor: Descriptor
    document: bytes
    """The manifest's or index's bytes, verified against `descriptor`."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference stands for now, as the registry says with the caller's credentials."""

    descriptor: Descriptor
    document: bytes
    """The manifest's or index's bytes, verified against `descriptor`."""
    fetcher: Fetcher


class Resolver(Protocol):
    """Asks the registry what a reference means, always with the caller's own credentials."""

    async def resolve(
        self, reference: Reference, credentials: Credentials | None, known: Known | None = None
    ) -> Resolved:
        """Resolve `reference`. Where it still stands for `known`, that is the answer, and the
        document is not fetched again.

        Raises:
            RegistryError: unknown, not permitted, or no host could be reached.
            CorruptContentError: the document does not match the digest asked for.
            LimitExceededError: the document is larger than `Limits.manifest_bytes`.
            ConfigError: a `hosts.toml` that matters here is malformed.
        """
        ...
