"""The one pass in this process, for tests of what it does to harmless archives."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cri_imaged.layers.apply import Result, apply_layer
from cri_imaged.layers.sink import DirectorySink
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types


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
        return apply_layer(chunks, media_type, "sha256", sink, chosen), sink
    finally:
        os.umask(mask)
        os.close(root)
