"""What a check tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cri_imaged.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Progress:
    """What is looked at now."""

    subject: str
    bytes_checked: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class BlobProblem:
    """A blob's file is gone, or has other bytes."""

    digest: Digest
    missing: bool
    images: tuple[str, ...]
    repaired: bool = False

    @property
    def kind(self) -> str:
        """`missing-blob` or `damaged-blob`."""
        return "missing-blob" if self.missing else "damaged-blob"

    @property
    def subject(self) -> str:
        """The digest."""
        return self.digest

    @property
    def description(self) -> str:
        """In words."""
        return "its file is gone" if self.missing else "its file has other bytes"


@dataclass(frozen=True, slots=True)
class SnapshotProblem:
    """A snapshot's files are gone, or are not what its layer unpacks to."""

    snapshotter: str
    chain_id: Digest
    missing: bool
    description: str
    images: tuple[str, ...]
    repaired: bool = False

    @property
    def kind(self) -> str:
        """`missing-snapshot` or `damaged-snapshot`."""
        return "missing-snapshot" if self.missing else "damaged-snapshot"

    @property
    def subject(self) -> str:
        """`snapshotter/chainID`, to be read by people."""
        return f"{self.snapshotter}/{self.chain_id}"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file or directory that belongs to nothing that is known."""

    path: Path
    repaired: bool = False
    images: tuple[str, ...] = ()
    kind: str = "orphan"
    description: str = "belongs to nothing that is known"

    @property
    def subject(self) -> str:
        """The path."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Unverified:
    """A name of an image that is not as the policy wants it: no pull would get it."""

    subject: str
    """The name; its ID, where it has no other."""
    at_digest: str
    """The same image's, which nobody can move; empty where it has none."""
    handler: str
    description: str
    repaired: bool = False
    kind: str = "unverified-image"

    @property
    def images(self) -> tuple[str, ...]:
        """That name."""
        return (self.subject,)


Problem: TypeAlias = BlobProblem | SnapshotProblem | Orphan | Unverified


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a check."""

    blobs: int
    snapshots: int
    images: int
    bytes: int
    problems: int
    repaired: int


Event: TypeAlias = Progress | Problem | Summary
