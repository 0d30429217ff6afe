"""What `layers` gives to the others: a layer applied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from cri_imaged.oci.digest import Digest
from cri_imaged.ports.content import LayerSource
from cri_imaged.ports.values import Usage


@dataclass(frozen=True, slots=True)
class DirectoryExtraction:
    """A layer is applied into this directory. It exists, is empty, and holds this layer only."""

    directory: Path


Extraction: TypeAlias = DirectoryExtraction
"""Where a layer goes: a type with variants (a layer as an EROFS image comes later)."""


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
    unended: bytes = b""
    """Where the archive has no end marker, its last entry's name, as written. It may be cut off
    there, which only the diffID tells: not all writers of layers end them."""


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
