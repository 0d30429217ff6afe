"""Content descriptors (OCI image spec, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names content by type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    platform: Platform | None = field(default=None, compare=False)
    """Of a manifest in an index."""
