"""Media types of images, and what they say of a document or a layer."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_V1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_MANIFEST_V1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
DOCUMENTS = INDEXES | MANIFESTS
SCHEMA1 = frozenset({DOCKER_MANIFEST_V1, DOCKER_MANIFEST_V1_SIGNED})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

FOREIGN_LAYERS = frozenset(
    {
        OCI_FOREIGN_LAYER,
        OCI_FOREIGN_LAYER + "+gzip",
        OCI_FOREIGN_LAYER + "+zstd",
        DOCKER_FOREIGN_LAYER,
        DOCKER_FOREIGN_LAYER_GZIP,
    }
)
"""Layers that may be fetched from the `urls` of their descriptor."""

PLAIN_LAYERS = frozenset({OCI_LAYER, DOCKER_LAYER, OCI_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER})
GZIP_LAYERS = frozenset(
    {OCI_LAYER_GZIP, DOCKER_LAYER_GZIP, OCI_FOREIGN_LAYER + "+gzip", DOCKER_FOREIGN_LAYER_GZIP}
)
ZSTD_LAYERS = frozenset({OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD, OCI_FOREIGN_LAYER + "+zstd"})
ENCRYPTED = "+encrypted"
"""Ends the type of a layer that is encrypted (ocicrypt); the rest is the type of what it hides."""
CLEAR_LAYERS = PLAIN_LAYERS | GZIP_LAYERS | ZSTD_LAYERS
ENCRYPTED_LAYERS = frozenset(clear + ENCRYPTED for clear in CLEAR_LAYERS)
LAYERS = CLEAR_LAYERS | ENCRYPTED_LAYERS

FILE_LAYER = "application/vnd.cri-imaged.file"
"""Ours alone, never a manifest's: a blob that is one file, not an archive."""
