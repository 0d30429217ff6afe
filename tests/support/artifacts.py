"""OCI artifacts, made as their tools make them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.images import MANIFEST, Layer, descriptor, sha256, write_index_entry

EMPTY = "application/vnd.oci.empty.v1+json"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
WASM = b"\0asm\1\0\0\0"


@dataclass(frozen=True)
class Blob:
    """What an artifact lists."""

    data: bytes
    media_type: str = PLAIN_LAYER
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A manifest and its blobs."""

    blobs: Sequence[Blob]
    config: bytes = b"{}"
    config_type: str = EMPTY
    artifact_type: str = "application/vnd.example.model"

    @property
    def manifest(self) -> bytes:
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": self.artifact_type,
            "config": descriptor(self.config, self.config_type),
            "layers": [
                descriptor(blob.data, blob.media_type, annotations=dict(blob.annotations))
                for blob in self.blobs
            ],
        }
        return json.dumps(document).encode()

    @property
    def id(self) -> str:
        return sha256(self.manifest)

    @property
    def size(self) -> int:
        """As CRI shows it."""
        listed = sum(len(blob.data) for blob in self.blobs)
        return len(self.manifest) + len(self.config) + listed

    def write_layout(self, directory: Path, name: str) -> Path:
        """An OCI layout of it, known as `name`."""
        blobs = directory / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for data in (*(blob.data for blob in self.blobs), self.config, self.manifest):
            (blobs / sha256(data).removeprefix("sha256:")).write_bytes(data)
        write_index_entry(directory, descriptor(self.manifest, MANIFEST), name)
        return directory


def titled(name: str, data: bytes, media_type: str = PLAIN_LAYER, **annotations: str) -> Blob:
    """A file, as `oras push` lists it."""
    return Blob(data, media_type, {TITLE: name, **annotations})


def archive(layer: Layer) -> Blob:
    """An archive of the type that an image's layer has."""
    return Blob(layer.blob, layer.media_type)


def chart(data: bytes) -> Artifact:
    """As `helm push` makes it."""
    return Artifact(
        [Blob(data, "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        b'{"name":"demo","version":"1.0.0","apiVersion":"v2"}',
        "application/vnd.cncf.helm.config.v1+json",
        "",
    )


def module() -> Artifact:
    """As the CNCF's wasm working group has it (Wasm OCI Artifact layout)."""
    return Artifact(
        [Blob(WASM, "application/wasm")],
        b'{"architecture":"wasm","os":"wasip1"}',
        "application/vnd.wasm.config.v0+json",
        "",
    )
