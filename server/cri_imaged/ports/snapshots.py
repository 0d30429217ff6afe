"""What `snapshots` gives to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cri_imaged.oci.digest import Digest
from cri_imaged.ports.layers import Applied, Extraction
from cri_imaged.ports.values import Lease, Usage


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a view: arguments of mount(8), to be done in the client's mount namespace."""

    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AlreadyPresent:
    """The snapshotter holds this snapshot already; the layer need not be fetched."""


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
