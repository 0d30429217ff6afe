"""What `content` gives to the others: blobs, and layers as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports.values import Lease

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Available:
    """The source's file holds this many bytes from its start; more may come."""

    size: int


@dataclass(frozen=True, slots=True)
class Complete:
    """All bytes are there and verified against the descriptor."""

    size: int


@dataclass(frozen=True, slots=True)
class Restart:
    """The bytes so far were wrong. What was made of them is void; open the source anew."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No more bytes will come."""

    reason: str


Watermark: TypeAlias = Available | Complete | Restart | Failed


class LayerSource(Protocol):
    """A layer's compressed bytes, while they arrive or when they are there."""

    async def open(self) -> int:
        """A new read-only file descriptor of the file that holds the bytes; the caller closes it.
        After a `Restart` it is another file."""
        ...

    def watermarks(self) -> AsyncIterator[Watermark]:
        """The present state at once, then each change (a slow reader sees the newest only, but
        never misses a `Restart`); ends after `Complete` or `Failed`."""
        ...


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob that was verified once."""

    digest: Digest
    size: int
    state: Literal["present", "discarded", "lost"] = "present"
    """Discarded: dropped on purpose, its snapshot is there. Lost: its file is gone or damaged."""


class Ingest(Protocol):
    """A blob on its way in."""

    @property
    def offset(self) -> int:
        """Bytes held so far: where a fetch should begin."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append, at the latest when it is committed or closed. Raises `CorruptContentError` as
        soon as the descriptor's size is passed and `NoSpaceError` where the disk is full, maybe
        for an earlier chunk."""
        ...

    async def restart(self) -> None:
        """Throw the bytes away and begin at offset 0 in a new file."""
        ...

    async def supersede(self) -> None:
        """The blob came by another ingest. Readers of this one read that blob instead, from its
        beginning; nothing is written here any more."""
        ...

    def source(self) -> LayerSource:
        """The bytes as a growing layer source. May be asked for any number of times."""
        ...

    async def commit(self) -> BlobInfo:
        """Verify size and digest and make it a blob. Raises `CorruptContentError` where they
        differ; the ingest may then `restart`."""
        ...


class Spool(Protocol):
    """A blob on its way in whose digest is told by its bytes alone."""

    async def write(self, chunk: bytes) -> None:
        """Append. Raises `NoSpaceError`."""
        ...

    async def commit(self) -> BlobInfo:
        """Make it the blob that it is."""
        ...


class ContentStore(Protocol):
    """Blobs by digest. What is in it was verified."""

    async def info(self, digest: Digest) -> BlobInfo | None:
        """The blob, or None where it was never committed."""
        ...

    async def hold(self, digest: Digest, lease: Lease) -> BlobInfo | None:
        """Let `lease` hold the blob, whatever its state. None where it was never committed."""
        ...

    async def hold_all(
        self, digests: Collection[Digest], lease: Lease
    ) -> Mapping[Digest, BlobInfo | None]:
        """As `hold`, of many at once."""
        ...

    async def put(self, digest: Digest, data: bytes, lease: Lease) -> None:
        """Store a small document that is at hand. The caller has verified it."""
        ...

    def spool(self, algorithm: str, lease: Lease) -> AbstractAsyncContextManager[Spool]:
        """Take in a blob of any size whose digest, by `algorithm`, nobody knows yet. Leaving
        without a commit leaves nothing."""
        ...

    async def has_file(self, digest: Digest) -> bool:
        """Whether there is a file of that name, whatever is in it."""
        ...

    def source(self, digest: Digest) -> LayerSource:
        """A present blob as a complete layer source. Raises `NotFoundError` when opened."""
        ...

    async def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob whole, verified; marked as lost where it is damaged. Raises
        `NotFoundError`, `CorruptContentError`, `LimitExceededError`."""
        ...

    async def decoded(self, digest: Digest, limit: int, decode: Callable[[bytes], T]) -> T:
        """As `read`, but what `decode` makes of it in the thread that has read it."""
        ...

    def writer(
        self, descriptor: Descriptor, lease: Lease, *, beside: bool = False
    ) -> AbstractAsyncContextManager[Ingest]:
        """Open the ingest of `descriptor` (that digest with that size) when it has no other
        writer, resuming what is there; with `beside` a second one, for a race of two. Leaving
        without a commit keeps the partial bytes for the next writer, until `drop_ingests`."""
        ...

    async def reclaim(self, digests: Sequence[Digest]) -> None:
        """Throw away the files of blobs whose rows are gone or not `present` any more. A blob that
        came back since then stays."""
        ...

    async def partial(self) -> tuple[int, int]:
        """How many unfinished fetches there are, running or to be resumed, and their bytes."""
        ...

    async def partial_bytes(self, blobs: Sequence[Descriptor]) -> int:
        """Bytes that unfinished fetches of the blobs, taken to be of those sizes, hold."""
        ...

    async def drop_ingests(self, *, max_seconds: float, max_bytes: int) -> tuple[int, int]:
        """Remove partial blobs that nobody writes: those older than `max_seconds`, then the
        oldest until they take at most `max_bytes`. Returns how many and their bytes."""
        ...

    async def reap(self) -> None:
        """After a start: throw away files without a row, mark blobs without their file as lost."""
        ...

    async def notice_lost(self) -> None:
        """Mark as lost the blobs whose file somebody else removed or cut."""
        ...

    async def adopt(self, lease: Lease) -> None:
        """Make known, under `lease`, the files without a row whose bytes are what their names say;
        throw the others away."""
        ...

    async def orphans(self) -> Sequence[Path]:
        """Files that no row of a present blob stands for."""
        ...

    async def verify(self, digest: Digest) -> bool:
        """Whether the blob's file has the bytes that its digest names."""
        ...
