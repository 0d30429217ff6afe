"""What `snapshots` gives to the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType, Protocol

from cri_imaged.oci.digest import Digest
from cri_imaged.ports.layers import Applied, Skipped, Target
from cri_imaged.ports.runtimes import RuntimeSnapshots
from cri_imaged.ports.values import Lease, Mount, Usage

SnapshotToken = NewType("SnapshotToken", int)
"""Stands for what a snapshot keeps on disk, after its row was deleted. Only the snapshotter whose
it is can tell what it means."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """One way in which a snapshot was made, or would have been: this blob was seen here to give
    this diffID."""

    blob: Digest
    blob_size: int
    """Compressed, in bytes."""
    diff_id: Digest
    size: int
    """Bytes of the uncompressed stream."""
    entries: int
    """Of the archive."""
    repository: str
    """Whence the blob came, as `registry/path`; empty for an import and where it is not known."""
    secret: str = ""
    """Fingerprint of what decrypted the blob; empty where it was not encrypted."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A committed snapshot."""

    chain_id: Digest
    parent: Digest | None
    usage: Usage
    """Of this layer alone."""
    skipped: Skipped
    """What of this layer could not be put on disk."""
    provenance: tuple[Provenance, ...]
    """Oldest first; none where an earlier version of the program made it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of comparing a snapshot with what it should be."""

    state: Literal["sound", "missing", "damaged", "unknown"]
    """Missing: its files are gone. Unknown: nothing was written down to compare it with."""
    difference: str = ""
    """In words, the first one; empty where it is sound."""


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
    """Empty where they cannot be told: its layers are gone from disk."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A layer that a remote snapshotter may have."""

    chain_id: Digest
    parent: Digest | None
    labels: Mapping[str, str]
    """What tells it which layer of which image is meant."""
    provenance: Provenance


class Snapshotter(Protocol):
    """Keeps one snapshot for each chainID and gives out mounts of them. A layer is applied before
    the layers under it are committed, or after."""

    @property
    def name(self) -> str:
        """As the configuration names it; what its rows bear."""
        ...

    @property
    def directory(self) -> Path:
        """Below which it keeps them."""
        ...

    @property
    def remote(self) -> bool:
        """Whether another program keeps them. It may have layers that nobody fetched, and each is
        begun only when its parent is committed."""
        ...

    async def claim(self, claim: Claim, lease: Lease) -> bool:
        """Have a layer that nobody fetched committed, held by `lease`, where a remote snapshotter
        has it. Its parent is committed. False where it is to be applied, or is here already."""
        ...

    async def prepare(self, key: str, parent: Digest | None, lease: Lease) -> Target:
        """Begin a snapshot under `key`, held by `lease`. Raises `InvalidRequestError` where the key
        is in use or empty, `NotFoundError` where the lease has ended."""
        ...

    async def taken(self, target: Target) -> Usage:
        """What is by now in a target that `prepare` gave and nobody has sealed yet."""
        ...

    async def commit(
        self,
        chain_id: Digest,
        key: str,
        parent: Digest | None,
        applied: Applied,
        provenance: Provenance,
    ) -> Usage:
        """Seal `key` on top of `parent` (which is committed by now), name it `chain_id`, and keep
        its `provenance`. Returns what was taken for it. Committing a chainID that is already there
        drops `key`, adds the provenance to that one, and succeeds; a commit that fails or is
        cancelled drops `key`, too."""
        ...

    async def hold(self, chain_id: Digest, lease: Lease) -> bool:
        """Let `lease` hold a committed snapshot. Returns whether there is one."""
        ...

    async def hold_chain(self, chain: Sequence[Digest], lease: Lease) -> Sequence[SnapshotInfo]:
        """Let `lease` hold those of `chain` (lowest first) that are committed and not lost, as
        `notice_lost` has it. Each of them stands on the one before it."""
        ...

    async def info(self, chain_id: Digest) -> SnapshotInfo | None:
        """The committed snapshot, or None."""
        ...

    async def walk(self) -> Sequence[SnapshotInfo]:
        """Every committed snapshot, parents before their children."""
        ...

    async def skipped(self, chain_id: Digest) -> Skipped:
        """What could not be put on disk of this snapshot and of those below it."""
        ...

    async def path(self, chain_id: Digest) -> Path:
        """Where a committed snapshot's own layer is kept. Raises `NotFoundError`."""
        ...

    async def view(
        self, key: str, chain_id: Digest | None, *, writable: bool = False
    ) -> Sequence[Mount]:
        """Give out a snapshot, or an empty directory for no `chain_id`, as mounts, under a row
        that survives restarts. The same key and arguments again give the same mounts. Raises
        `NotFoundError`, and `InvalidRequestError` where `key` is in use for something else."""
        ...

    async def remove(self, key: str) -> None:
        """Remove an unfinished snapshot or a view; its disk space returns in the background.
        Removing what is not there succeeds."""
        ...

    async def views(self) -> Sequence[View]:
        """Every view that was given out, oldest first."""
        ...

    async def write_listing(self, chain_id: Digest) -> None:
        """Write down what a committed snapshot holds, where that was not done, for `verify`. What
        is not there (any more) is done with. Raises `OSError` where it cannot be read."""
        ...

    async def write_digests(self) -> None:
        """Write down the digests of committed layers that are files, came since and are durable,
        for `verify` and `notice_lost`."""
        ...

    async def verify(self, chain_id: Digest) -> Verdict:
        """Compare a committed snapshot with its listing or digest. Raises `NotFoundError`, also
        where it was removed meanwhile."""
        ...

    async def verify_by(self, chain_id: Digest, key: str, applied: Applied) -> Verdict:
        """Compare a committed snapshot with its layer, which was applied again under `key`; that is
        dropped. Raises as `verify` and `commit` do."""
        ...

    async def give_up(self, chain_ids: Sequence[Digest]) -> None:
        """Let go of committed snapshots that are damaged, as `notice_lost` does."""
        ...

    async def reclaim(self, tokens: Sequence[SnapshotToken]) -> None:
        """Throw away what snapshots keep on disk whose rows garbage collection has deleted. A
        snapshot that still has its row is left alone."""
        ...

    async def reap(self) -> None:
        """After a start, before anything else: throw away unfinished snapshots and directories
        without a row, mark snapshots without their directory as lost."""
        ...

    async def notice_lost(self) -> None:
        """Let go of committed snapshots whose directory somebody removed, or whose file has
        another digest since somebody wrote to it: their chain IDs are free, and images that stand
        on them are not ready."""
        ...

    async def orphans(self) -> Sequence[Path]:
        """Directories that belong to no row."""
        ...

    def for_runtime(self, runtime: str, freed: Callable[[], object]) -> RuntimeSnapshots | None:
        """The snapshots of a runtime, known by the name `runtime`, that stand on these. `freed` is
        called where one of these may be garbage now. None: runtimes are not given these by us."""
        ...

    async def runtimes(self) -> Sequence[str]:
        """The runtimes that have snapshots on these, configured or not."""
        ...
