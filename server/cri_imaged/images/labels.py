"""What containerd's tools look for on an image's record and on its content, by containerd's names.
Pure; nothing is kept: all of it follows from the image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cri_imaged.images.store import Image
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest
from cri_imaged.oci.reference import Reference

_MANAGED = "io.cri-containerd.image"
_PINNED = "io.cri-containerd.pinned"
_SOURCE = "containerd.io/distribution.source."
_UNCOMPRESSED = "containerd.io/uncompressed"


@dataclass(frozen=True, slots=True)
class Content:
    """One blob of an image."""

    digest: Digest
    labels: Mapping[str, str]


def labels_of(image: Image) -> dict[str, str]:
    """Of an image's record."""
    return {_MANAGED: "managed", **({_PINNED: "pinned"} if image.pinned else {})}


def content_of(
    image: Image, manifest: Manifest, config: Config, *, imported: bool
) -> Sequence[Content]:
    """What an image consists of, each blob once: what its names mean, manifest, config, layers.

    Every blob came from each repository that the image is named after, or that repository's
    registry confirmed that it has it; unless it was `imported`: an archive says nothing of what a
    registry has. A layer's label is its diffID; an artifact's has none.
    """
    references = [Reference.parse(name) for name in image.repo_digests]
    repositories: dict[str, set[str]] = defaultdict(set)
    for reference in () if imported else references:
        repositories[reference.registry].add(reference.repository)
    sources = {_SOURCE + host: ",".join(sorted(names)) for host, names in repositories.items()}
    listed = (*manifest.layers, *manifest.blobs)
    digests = [
        *(reference.digest for reference in references if reference.digest is not None),
        *(image.record.manifest, manifest.config.digest, *(each.digest for each in listed)),
    ]
    told = () if config.is_artifact else config.diff_ids
    layers = (layer.digest for layer in manifest.layers)
    diff_ids = dict(zip(layers, told, strict=False))
    return [
        Content(digest, {**sources, **_uncompressed(diff_ids.get(digest))})
        for digest in dict.fromkeys(digests)
    ]


def _uncompressed(diff_id: Digest | None) -> dict[str, str]:
    return {} if diff_id is None else {_UNCOMPRESSED: diff_id}
