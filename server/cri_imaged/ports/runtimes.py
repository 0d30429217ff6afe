"""Between us and the runtimes of this node, which run containers from our snapshots.

Two seams: `RuntimeSnapshots` is what a runtime asks of us, `RuntimeLink` is how it hears of our
images.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cri_imaged.oci.digest import Digest
from cri_imaged.ports.values import Mount, Usage

REF_LABEL = "containerd.io/snapshot.ref"
"""On `prepare`: the chainID that the caller is about to unpack (containerd, core/unpack)."""
UID_MAP_LABEL = "containerd.io/snapshot/uidmapping"
GID_MAP_LABEL = "containerd.io/snapshot/gidmapping"
"""On `prepare` and `view`: IDs of a user namespace, `container:host:length` joined by commas."""


class SnapshotKind(enum.Enum):
    """What can be done with a snapshot (containerd, core/snapshots: Kind)."""

    VIEW = "view"
    """Mounted, never written, never committed."""
    ACTIVE = "active"
    """Mounted and written; may be committed."""
    COMMITTED = "committed"
    """Finished: others stand on it."""


@dataclass(frozen=True, slots=True)
class RuntimeSnapshot:
    """A snapshot as its runtime knows it."""

    name: str
    """The runtime's own; containerd's are `namespace/number/key`."""
    parent: str
    """A name of the same runtime's; empty: none."""
    kind: SnapshotKind
    labels: Mapping[str, str]
    created: float
    """Unix seconds."""
    updated: float
    """Unix seconds."""
    chain_id: Digest | None = None
    """The layers of ours that it stands for, or that a container's snapshot stands on; None where
    the runtime has unpacked them itself, or where there are none."""


class RuntimeSnapshots(Protocol):
    """The snapshots of one runtime in one of our snapshotters, as containerd's snapshots API has
    them (core/snapshots: Snapshotter). Rows that survive restarts; what they stand on is held.

    Adoption: `prepare` with `REF_LABEL` of a chain that is committed here, on the name that stands
    for the chain below (or "" for the bottom layer), makes a committed snapshot of the runtime's
    whose name is the chainID, and raises `AlreadyExistsError`; once more is the same. The name
    never differs, as the runtime goes on using it when our row was lost and is made again. Other
    chains are the runtime's own work. Where it has the chain below by its own work, the name bears
    a mark besides, of what it stands on.

    Every verb raises `NotFoundError` for a name, a parent or layers that are not there (any more).
    """

    async def stat(self, name: str) -> RuntimeSnapshot:
        """One snapshot."""
        ...

    async def update(
        self, name: str, labels: Mapping[str, str], paths: Sequence[str] = ()
    ) -> RuntimeSnapshot:
        """Replace the labels. With `paths`, each `labels` or `labels.KEY`, only those: a KEY that
        `labels` lacks is dropped. Raises `InvalidRequestError` for another path."""
        ...

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        """A writable snapshot on top of the committed `parent`, or an empty one for "".

        Raises:
            AlreadyExistsError: the key is in use, or a chain of ours was adopted.
            InvalidRequestError: `parent` is not committed.
        """
        ...

    async def adopt(self, chain: Sequence[Digest]) -> None:
        """Have the runtime's names for `chain`, lowest first, stand for layers of ours, which they
        hold: `prepare` does it where the runtime asks, which it may never do again for a row that
        we lost. Raises `NotFoundError` where the layers are not here."""
        ...

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        """As `prepare`, read-only. Nothing is adopted."""
        ...

    async def mounts(self, key: str) -> Sequence[Mount]:
        """The mounts of an active snapshot or a view again.

        Raises:
            InUseError: it is committed.
            NotFoundError: there is none, or what is under it is gone from disk.
        """
        ...

    async def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Finish the active `key` as `name`, with `labels` instead of its own.

        Raises:
            AlreadyExistsError: `name` is in use.
            InUseError: `key` is not active.
        """
        ...

    async def remove(self, name: str) -> None:
        """Forget a snapshot; never an image's layer. Raises `InUseError` while another one stands
        on it."""
        ...

    async def list(self) -> Sequence[RuntimeSnapshot]:
        """All of this runtime's, parents before children. With those that stand for layers that
        were lost, though other verbs do not find them: by what is listed a runtime removes what it
        has forgotten, from the top to the bottom."""
        ...

    async def usage(self, name: str) -> Usage:
        """What this snapshot alone takes, without its parents."""
        ...

    async def forget(self) -> None:
        """Forget every snapshot of a runtime that does not come back."""
        ...


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """How we stand with a runtime."""

    name: str
    version: str
    """What the runtime says of itself; empty: it was never reached, or does not say."""
    up: bool
    """Whether it is told at once."""
    since: float
    """Unix seconds of the last change of `up`."""
    owed: int
    """Images that it is still to be told of."""
    problem: str
    """Why it is not up, or why something is owed; else empty."""


class RuntimeLink(Protocol):
    """Tells one runtime of our images."""

    @property
    def name(self) -> str:
        """Names the runtime in logs and metrics."""
        ...

    def status(self) -> LinkStatus:
        """How it stands now."""
        ...

    async def foreign_images(self) -> Sequence[str]:
        """Names of images that it has from elsewhere; none where it cannot be asked."""
        ...

    async def images_in_use(self) -> frozenset[Digest]:
        """IDs of the images that its containers run from, as far as its snapshots do not tell.

        Raises:
            InUseError: it cannot be told now.
        """
        ...

    async def image_changed(self, image_id: Digest, handler: str) -> None:
        """Have the runtime know what the store says of this image *now*: new, under other names,
        or gone. Called after the transaction, before the client hears of it. Never raises and
        returns within its own patience: what could not be done is owed, and done later."""
        ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime of this node."""

    link: RuntimeLink | None
    """None: the configuration has no such runtime (any more), which has snapshots all the same."""
    snapshots: Mapping[str, RuntimeSnapshots]
    """Those that it has in each of our snapshotters, by that one's name."""
