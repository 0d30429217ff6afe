"""The honest image: the same bytes in every process, as a hostile one may name its layers."""

from __future__ import annotations

import functools
import random

from tests.support.images import Image, directory, file, image, layer
from tests.support.registry import FaultRegistry


@functools.cache
def honest() -> Image:
    """Three layers, 6 MiB, some hundred files."""
    source = random.Random("honest")
    base = {"etc": directory(), "etc/os-release": file("honest\n")}
    files = {f"usr/share/f{number}": file(source.randbytes(8 << 10)) for number in range(256)}
    return image(
        layer({**base, "bin/base": file(source.randbytes(3 << 20), mode=0o755)}),
        layer(files),
        layer({"app/app": file(source.randbytes(1 << 20), mode=0o755)}, "zstd"),
    )


def serve(registry: FaultRegistry, name: str, served: Image) -> str:
    """Put an image into a registry; returns its reference."""
    for each in served.layers:
        registry.add_blob(each.blob, each.media_type)
    registry.add_blob(served.config)
    registry.add_manifest(name, "1", "application/vnd.oci.image.manifest.v1+json", served.manifest)
    return f"{registry.authority}/{name}:1"
