"""A document is let go when it was read, also where it is refused."""

from __future__ import annotations

import gc
import json
import tracemalloc

import pytest

from cri_imaged.errors import ImagedError
from cri_imaged.limits import MIB
from tests.images.gated import GatedRegistry
from tests.images.workbench import REPOSITORY, Bench, until
from tests.support.images import CONFIG, MANIFEST, descriptor


@pytest.mark.parametrize(
    "config",
    [
        b'{"config":{"User":"%s"}}' % (b"u" * 4 * MIB),
        b'{"author":"\\ud800%s",}' % (b"\\n" * 2 * MIB),
    ],
    ids=["a limit", "malformed"],
)
async def test_a_refusal_keeps_nothing_of_the_document(
    bench: Bench, registry: GatedRegistry, config: bytes
) -> None:
    await bench.pull_and_remove(registry)
    described = {"config": descriptor(config, CONFIG), "layers": []}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, **described}
    registry.add_blob(config)
    registry.add_manifest(REPOSITORY, "latest", MANIFEST, json.dumps(document).encode())
    gc.collect()
    gc.disable()  # nothing waits for the collector: it may come late
    tracemalloc.start()
    try:
        with pytest.raises(ImagedError, match="config") as refused:
            await bench.pull()
        assert refused.value  # and whoever has it
        await until(lambda: tracemalloc.get_traced_memory()[0] < MIB)
    finally:
        tracemalloc.stop()
        gc.enable()
