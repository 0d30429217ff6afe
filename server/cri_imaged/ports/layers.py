"""What `layers` gives to the others: a layer applied."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

import msgspec

from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports.content import LayerSource
from cri_imaged.ports.registry import Sharers
from cri_imaged.ports.values import Usage


class DirectoryTarget(msgspec.Struct, frozen=True, tag="directory"):
    """A layer is applied into this directory. It exists, is empty, and holds this layer only."""

    directory: Path


class ImageTarget(msgspec.Struct, frozen=True, tag="image"):
    """A layer becomes an EROFS image, `IMAGE` in this directory, which holds nothing else."""

    directory: Path


IMAGE = "image"

Target: TypeAlias = DirectoryTarget | ImageTarget
"""Where a layer goes: a tagged union, as a worker is told of it. Each variant has a sink in
`layers/sinks/table.py`."""


class LayerSecret(msgspec.Struct, frozen=True, array_like=True):
    """What decrypts one encrypted layer. Left out of `repr`, so that no log line can hold it."""

    key: bytes
    nonce: bytes
    hmac: bytes
    """Of all the ciphertext, by that key."""

    @property
    def fingerprint(self) -> str:
        """Tells it from others, and gives nothing of it away: the key is random."""
        return hashlib.sha256(b"layer secret\0" + self.key + self.nonce).hexdigest()

    def __repr__(self) -> str:
        return "LayerSecret(…)"


ATTRIBUTE_REFUSED = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EOPNOTSUPP,
        errno.E2BIG,
        errno.ERANGE,
        errno.EINVAL,
        errno.ENODATA,
    }
)
"""By these a file system or the kernel refuses an owner or an extended attribute; it is skipped."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What an applier could not put on disk, counted: not permitted or not supported here."""

    owners: int = 0
    devices: int = 0
    xattrs: int = 0
    times: int = 0

    def __add__(self, other: Skipped) -> Skipped:
        return Skipped(
            self.owners + other.owners,
            self.devices + other.devices,
            self.xattrs + other.xattrs,
            self.times + other.times,
        )


class Device(msgspec.Struct, frozen=True):
    """A device node that a layer lists. Whoever reads a stranger's bytes may not make one: the
    snapshotter does, at the seal."""

    mode: int
    """Kind and permissions, as in `st_mode`."""
    major: int
    minor: int
    uid: int
    gid: int
    mtime: int
    """Nanoseconds since the epoch."""
    names: tuple[bytes, ...] = ()
    """In the archive's order: the node, then hardlinks to it."""


class Attributes(msgspec.Struct, frozen=True, array_like=True):
    """What a hardlink's entry says of the file."""

    uid: Annotated[int, msgspec.Meta(ge=0, lt=(1 << 32) - 1)]
    gid: Annotated[int, msgspec.Meta(ge=0, lt=(1 << 32) - 1)]
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
    seconds: int
    """Of the modification time, possibly negative."""
    nanoseconds: Annotated[int, msgspec.Meta(ge=0, lt=1_000_000_000)]


class Late(msgspec.Struct, frozen=True, array_like=True):
    """What something in a layer gets only when its tree is complete, by the daemon."""

    path: bytes
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    attributes: Attributes | None = None
    """Of a hardlink that is made at the seal."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying one layer on its own.

    The directory then holds exactly what the layer lists. What needs the layers below is said
    here and done by the snapshotter when it seals the snapshot. Paths are relative, of bytes,
    without a leading slash and without `.`, `..` or symlinks in any but the last component.
    Where there are many, they are in a file and read anew each time.
    """

    diff_id: Digest
    size: int
    """Bytes of the uncompressed stream, to its very end."""
    entries: int
    usage: Usage
    skipped: Skipped = Skipped()
    whiteouts: Sequence[bytes] = ()
    """Names to hide that the layers below may hold; none is also in the directory."""
    opaques: Sequence[bytes] = ()
    """Directories of this layer (b"" is the root) under which the layers below are hidden."""
    implicit: Sequence[bytes] = ()
    """Directories made only because something is in them, parents first. (b"" is the root.) They
    take mode, owner, xattrs and mtime from the layers below."""
    links: Sequence[tuple[bytes, bytes]] = ()
    """(name, target): hardlinks whose target this layer does not hold, in the archive's order.
    A directory holds nothing at `name` yet."""
    devices: Sequence[Device] = ()
    """Device nodes to make before the links. A directory holds nothing at their names yet."""
    late: Sequence[Late] = ()
    """In the archive's order. Default ACLs would show in what is made after them; `security.*` and
    `trusted.*` take more rights than the applier has."""
    unended: bytes = b""
    """Where the archive has no end marker, its last entry's name, as written. It may be cut off
    there, which only the diffID tells: not all writers of layers end them."""


class Applier(Protocol):
    """Turns a layer's bytes into what it lists, confined."""

    async def apply(
        self,
        source: LayerSource,
        descriptor: Descriptor,
        into: Target,
        *,
        algorithm: str = "sha256",
        share: Sharers | None = None,
        secret: LayerSecret | None = None,
        diff_id: Digest | None = None,
        origin: str = "",
    ) -> Applied:
        """Apply the layer that `source` gives, while it arrives, into `into`. Of `descriptor`
        media type and annotations say how it is encoded; `algorithm` is the diffID's.
        Where many wait, each pull gets its turn, whatever others ask for, and before that each of
        its groups; the layer has that of whichever of `share` is first. `secret` decrypts an
        encrypted layer. `diff_id`: what it should come to, where that is known; the caller compares
        it. Layers of equal `origin` may share what costs them time, and nothing else.

        Raises:
            CorruptContentError: malformed compression or archive, naming entry and offset.
            UnsupportedContentError: a media type or entry type that is not supported.
            LimitExceededError, NoSpaceError
        """
        ...
