"""The one pass in this process, for tests of what it does to harmless archives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cri_imaged.layers.apply import Result, apply_layer
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.layers.sinks.directory import DirectorySink
from cri_imaged.layers.sinks.image import ImageSink
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types


def decoded(source: Iterable[bytes], media_type: str, limits: Limits) -> Iterator[bytes]:
    """The uncompressed stream, decoded in this process."""
    return decoder_of(media_type).decode(source, Encoded(media_type), limits)


def apply_into(
    target: Path,
    source: bytes | Iterable[bytes],
    media_type: str = media_types.OCI_LAYER,
    limits: Limits | None = None,
) -> tuple[Result, DirectorySink]:
    """Apply a layer into `target`, with this process's own rights."""
    chosen = limits or Limits()
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    mask = os.umask(0)
    try:
        sink = DirectorySink(root, chosen, privileged=os.geteuid() == 0)
        chunks = [source] if isinstance(source, bytes) else source
        return apply_layer(decoded(chunks, media_type, chosen), "sha256", sink, chosen), sink
    finally:
        os.umask(mask)
        os.close(root)


def apply_image(
    image: Path, archive: Iterable[bytes], limits: Limits | None = None
) -> tuple[Result, ImageSink]:
    """Apply a plain layer into the file `image`."""
    chosen = limits or Limits()
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    sink = ImageSink(fd, chosen)
    try:
        return apply_layer(archive, "sha256", sink, chosen), sink
    except BaseException:
        os.close(fd)
        raise
