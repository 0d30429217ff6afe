"""OCI artifacts as images: what a manifest lists becomes layers, so that all that is done for an
image is done for them.

Archives of the types that an image's layers have are unpacked. Any other blob is one file, named by
its title (`org.opencontainers.image.title`), else by its digest. No config gives diffIDs, so each
layer is named after what alone decides what it unpacks to: type, blob and file name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cri_imaged.errors import CorruptContentError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import TITLE, Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest, config_of
from cri_imaged.oci.layer_path import components, show

NO_ARCHIVE = b"what follows names a layer of an artifact ".ljust(512, b".")
"""What is hashed for such a name begins so: with a block that is no header of an archive. So no
archive has the name for its diffID, and no image can claim an artifact's snapshots."""
_UNPACK = "io.deis.oras.content.unpack"
_COMPONENT_BYTES = 255
_WHITEOUT = b".wh."


def read_image(manifest: Manifest, data: bytes, limits: Limits) -> tuple[Manifest, Config]:
    """An image's manifest and its config, which is read from `data`. Those of an artifact are given
    the form of an image's: layers, and what stands for their diffIDs.

    Raises:
        CorruptContentError: malformed, or a title that cannot be a file's name in a view.
        UnsupportedContentError, LimitExceededError: as `config_of`.
    """
    config = config_of(manifest, data, limits)
    if not config.is_artifact:
        return manifest, config
    files = [blob for blob in manifest.blobs if not _is_nothing(blob)]
    files += [layer for layer in manifest.layers if _is_file(layer)]
    layers = [layer for layer in manifest.layers if not _is_file(layer)] + _named(files, limits)
    listed = {layer.digest for layer in layers}
    return (
        replace(
            manifest,
            layers=tuple(layers),
            blobs=tuple(blob for blob in manifest.blobs if blob.digest not in listed),
        ),
        replace(config, diff_ids=tuple(_name_of(layer) for layer in layers)),
    )


def image_id(digest: Digest, manifest: Manifest, config: Config) -> Digest:
    """The ID of the image whose manifest has this digest: its config's. Many artifacts share one
    config, so theirs is the manifest's."""
    return digest if config.is_artifact else manifest.config.digest


def _is_nothing(blob: Descriptor) -> bool:
    """Whether it only stands for a list of nothing (OCI image spec, "Guidance for an Empty
    Descriptor")."""
    return blob.media_type == media_types.OCI_EMPTY and not blob.annotations.get(TITLE)


def _is_file(layer: Descriptor) -> bool:
    """Whether what says that it is an archive is a file all the same: ORAS calls any file a plain
    layer, unless it is told another type, and says what is to be unpacked."""
    notes = layer.annotations
    return (
        layer.media_type == media_types.OCI_LAYER
        and bool(notes.get(TITLE))
        and notes.get(_UNPACK) != "true"
    )


def _named(blobs: Sequence[Descriptor], limits: Limits) -> list[Descriptor]:
    """A layer of one file for each of `blobs`."""
    taken: dict[bytes, Digest] = {}
    for blob in blobs:
        name = _file_name(blob, limits)
        if taken.setdefault(name, blob.digest) != blob.digest:
            raise CorruptContentError(f"artifact: two different blobs have the title {show(name)}")
    for name in taken:
        parts = components(name)
        for end in range(1, len(parts)):
            if (above := b"/".join(parts[:end])) in taken:
                raise CorruptContentError(
                    f"artifact: title {show(name)} lies in {show(above)}, which is a file"
                )
    sizes = {blob.digest: blob for blob in blobs}
    return [
        replace(
            sizes[digest], media_type=media_types.FILE_LAYER, annotations={TITLE: name.decode()}
        )
        for name, digest in taken.items()
    ]


def _file_name(blob: Descriptor, limits: Limits) -> bytes:
    title = blob.annotations.get(TITLE)
    if not title:
        return blob.digest.hex.encode()
    name = title.removeprefix("./").encode()
    try:
        parts = components(name)
    except CorruptContentError:
        parts = ()
    if (
        not parts
        or len(name) > limits.path_bytes
        or any(len(part) > _COMPONENT_BYTES or part.startswith(_WHITEOUT) for part in parts)
    ):
        raise CorruptContentError(
            f"artifact: blob {blob.digest} has the title {show(title.encode())}, which cannot be a "
            f"file's name in a view: it has to be a relative path without '.', '..', '.wh.' and "
            f"NUL, of names of {_COMPONENT_BYTES} bytes at the most"
        )
    return name


def _name_of(layer: Descriptor) -> Digest:
    """What stands for its diffID."""
    title = layer.annotations.get(TITLE, "") if layer.media_type == media_types.FILE_LAYER else ""
    parts = (layer.media_type, layer.digest, str(layer.size), title)
    return Digest.of(NO_ARCHIVE + "\0".join(parts).encode())
