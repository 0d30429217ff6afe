"""Content descriptors (OCI image spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cri_imaged.oci.digest import Digest
from cri_imaged.oci.platform import Platform

TITLE = "org.opencontainers.image.title"
"""Annotation: the name of the file that a blob of an artifact is."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names content by type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    platform: Platform | None = field(default=None, compare=False)
    """Of a manifest in an index."""
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)
    """As a stranger wrote them, at most `Limits.annotation_bytes`."""
    artifact_type: str = field(default="", compare=False)
    """What kind of artifact the content is; empty where it is none."""
