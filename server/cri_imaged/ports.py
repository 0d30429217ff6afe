"""The Protocols between the rooms, and the values that cross them.

`registry`, `content`, `snapshots` and `layers` never import one another; `images` uses them
through these interfaces and `daemon.py` wires them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeAlias

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps garbage collection's hands off what its holder brings in."""

    id: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """One CRI AuthConfig. Secrets are left out of `repr`, so that no log line can hold them."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    """Base64 of `user:password`."""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""


# --- registry -------------------------------------------------------------------------------


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
class Resolved:
    """What a reference stands for now, as the registry says with the caller's credentials."""

    descriptor: Descriptor
    document: bytes
    """The manifest's or index's bytes, verified against `descriptor`."""
    fetcher: Fetcher


class Resolver(Protocol):
    """Asks the registry what a reference means, always with the caller's own credentials."""

    async def resolve(self, reference: Reference, credentials: Credentials | None) -> Resolved:
        """Resolve `reference`.

        Raises:
            RegistryError: unknown, not permitted, or no host could be reached.
            CorruptContentError: the document does not match the digest asked for.
            LimitExceededError: the document is larger than `Limits.manifest_bytes`.
            ConfigError: a `hosts.toml` that matters here is malformed.
        """
        ...


# --- content --------------------------------------------------------------------------------


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

    def open(self) -> int:
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
    """A blob on its way in. One writer at a time for each digest."""

    @property
    def offset(self) -> int:
        """Bytes held so far: where a fetch should begin."""
        ...

    def write(self, chunk: bytes) -> None:
        """Append. Raises `CorruptContentError` as soon as the descriptor's size is passed and
        `NoSpaceError` where the disk is full."""
        ...

    def restart(self) -> None:
        """Throw the bytes away and begin at offset 0 in a new file."""
        ...

    def source(self) -> LayerSource:
        """The bytes as a growing layer source. May be asked for any number of times."""
        ...

    async def commit(self) -> BlobInfo:
        """Verify size and digest and make it a blob. Raises `CorruptContentError` where they
        differ; the ingest may then `restart`."""
        ...


class ContentStore(Protocol):
    """Blobs by digest. What is in it was verified."""

    async def info(self, digest: Digest) -> BlobInfo | None:
        """The blob, or None where it was never committed."""
        ...

    async def hold(self, digest: Digest, lease: Lease) -> BlobInfo | None:
        """Let `lease` hold the blob, whatever its state. None where it was never committed."""
        ...

    async def put(self, digest: Digest, data: bytes, lease: Lease) -> None:
        """Store a small document that is at hand. The caller has verified it."""
        ...

    def open(self, digest: Digest) -> BinaryIO:
        """Open a present blob for reading. Raises `NotFoundError`."""
        ...

    def source(self, digest: Digest) -> LayerSource:
        """A present blob as a complete layer source. Raises `NotFoundError` when opened."""
        ...

    async def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob whole, verified. Raises `NotFoundError`, `CorruptContentError`,
        `LimitExceededError`."""
        ...

    def writer(self, descriptor: Descriptor, lease: Lease) -> AbstractAsyncContextManager[Ingest]:
        """Open the ingest of `descriptor`, resuming what is there. Leaving without a commit keeps
        the partial bytes for the next writer, until `drop_ingests`."""
        ...

    async def reclaim(self, digests: Sequence[Digest]) -> None:
        """Throw away the files of blobs whose rows are gone or not `present` any more. A blob that
        came back since then stays."""
        ...

    def drop_ingests(self, *, max_seconds: float, max_bytes: int) -> tuple[int, int]:
        """Remove partial blobs that nobody writes: those older than `max_seconds`, then the
        oldest until they take at most `max_bytes`. Returns how many and their bytes."""
        ...

    async def reap(self) -> None:
        """After a start: throw away files without a row, mark blobs without their file as lost."""
        ...

    async def notice_lost(self) -> None:
        """Mark as lost the blobs whose file somebody else removed or cut."""
        ...

    async def adopt(self, lease: Lease) -> Sequence[Digest]:
        """Make known, under `lease`, the files without a row whose bytes are what their names say;
        throw the others away."""
        ...

    async def orphans(self) -> Sequence[Path]:
        """Files that no row of a present blob stands for."""
        ...

    async def verify(self, digest: Digest) -> bool:
        """Whether the blob's file has the bytes that its digest names."""
        ...


# --- snapshots and layers -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What something takes on disk."""

    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a view: arguments of mount(8), to be done in the client's mount namespace."""

    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DirectoryExtraction:
    """A layer is applied into this directory. It exists, is empty, and holds this layer only."""

    directory: Path


Extraction: TypeAlias = DirectoryExtraction
"""Where a layer goes: a type with variants (a layer as an EROFS image comes later)."""


@dataclass(frozen=True, slots=True)
class AlreadyPresent:
    """The snapshotter holds this snapshot already; the layer need not be fetched."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What an applier could not put on disk, counted: not permitted or not supported here."""

    owners: int = 0
    devices: int = 0
    xattrs: int = 0
    times: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying one layer on its own.

    The directory then holds exactly what the layer lists. What needs the layers below is said
    here and done by the snapshotter when it seals the snapshot. Paths are relative, of bytes,
    without a leading slash and without `.`, `..` or symlinks in any but the last component.
    """

    diff_id: Digest
    size: int
    """Bytes of the uncompressed stream, to its very end."""
    entries: int
    usage: Usage
    skipped: Skipped = Skipped()
    whiteouts: tuple[bytes, ...] = ()
    """Names to hide that the layers below may hold; none is also in the directory."""
    opaques: tuple[bytes, ...] = ()
    """Directories of this layer (b"" is the root) under which the layers below are hidden."""
    implicit: tuple[bytes, ...] = ()
    """Directories made only because something is in them, parents first. (b"" is the root.) They
    take mode, owner, xattrs and mtime from the layers below."""
    links: tuple[tuple[bytes, bytes], ...] = ()
    """(name, target): hardlinks whose target this layer does not hold, in the archive's order.
    A directory holds nothing at `name` yet."""


class Applier(Protocol):
    """Turns a layer's bytes into what it lists, confined."""

    async def apply(
        self,
        layer: LayerSource,
        media_type: str,
        into: Extraction,
        *,
        algorithm: str = "sha256",
    ) -> Applied:
        """Apply `layer`, while it arrives, into `into`. `algorithm` is the diffID's.

        Raises:
            CorruptContentError: malformed compression or archive, naming entry and offset.
            UnsupportedContentError: a media type or entry type that is not supported.
            LimitExceededError, NoSpaceError
        """
        ...


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A committed snapshot."""

    chain_id: Digest
    parent: Digest | None
    usage: Usage
    """Of this layer alone."""
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot that was given out as mounts, until its key is removed."""

    key: str
    chain_id: Digest | None
    """None for an image without layers, an empty directory, and where the snapshot was lost since.
    """
    writable: bool
    created: float
    """Unix seconds."""
    mounts: tuple[Mount, ...]


class Snapshotter(Protocol):
    """Keeps one snapshot for each chainID and gives out mounts of them."""

    @property
    def name(self) -> str:
        """As the configuration names it; what its rows bear."""
        ...

    @property
    def independent(self) -> bool:
        """Whether layers may be applied before the layers under them are committed."""
        ...

    async def prepare(
        self, key: str, parent: Digest | None, lease: Lease, labels: Mapping[str, str]
    ) -> Extraction | AlreadyPresent:
        """Begin a snapshot under `key`. Where `independent`, `parent` need not be committed yet."""
        ...

    async def commit(
        self, chain_id: Digest, key: str, parent: Digest | None, applied: Applied
    ) -> None:
        """Seal `key` on top of `parent` (which is committed by now) and name it `chain_id`.
        Committing a chainID that is already there drops `key` and succeeds; so does, without
        succeeding, a commit that fails or is cancelled."""
        ...

    async def info(self, chain_id: Digest) -> SnapshotInfo | None:
        """The committed snapshot, or None."""
        ...

    async def walk(self) -> Sequence[SnapshotInfo]:
        """Every committed snapshot, parents before their children."""
        ...

    async def path(self, chain_id: Digest) -> Path:
        """The directory in which a committed snapshot is kept. Raises `NotFoundError`."""
        ...

    async def view(
        self, key: str, chain_id: Digest | None, *, writable: bool = False
    ) -> Sequence[Mount]:
        """Give out a snapshot, or an empty directory for no `chain_id`, as mounts, under a row
        that survives restarts. The same key and arguments again give the same mounts. Raises
        `NotFoundError`, and `InvalidRequestError` where `key` is in use for something else."""
        ...

    async def usage(self, chain_id: Digest) -> Usage:
        """What this snapshot alone takes. Raises `NotFoundError`."""
        ...

    async def remove(self, key: str) -> None:
        """Remove an unfinished snapshot or a view; its disk space returns in the background.
        Removing what is not there succeeds."""
        ...

    async def views(self) -> Sequence[View]:
        """Every view that was given out, oldest first."""
        ...

    async def reclaim(self, ids: Sequence[int]) -> None:
        """Move the directories of snapshots to the trash, by the row numbers of rows that garbage
        collection has deleted. A snapshot that still has its row is left alone."""
        ...

    async def reap(self) -> None:
        """After a start, before anything else: throw away unfinished snapshots and directories
        without a row, mark snapshots without their directory as lost."""
        ...

    async def notice_lost(self, chain: Sequence[Digest] | None = None) -> None:
        """Let go of committed snapshots (of `chain`, or all) whose directory somebody removed:
        their chain IDs are free, and images that stand on them are not ready."""
        ...

    async def orphans(self) -> Sequence[Path]:
        """Directories that belong to no row."""
        ...
