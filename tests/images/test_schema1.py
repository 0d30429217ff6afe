"""Docker schema 1 images that registries have unsigned, or serve badly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri_imaged.errors import (
    CorruptContentError,
    LimitExceededError,
    RegistryError,
    UnsupportedContentError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from tests.images.workbench import REPOSITORY, Bench, layer
from tests.oci.test_schema1 import manifest
from tests.support.registry import BLOB, FaultRegistry, status

EMPTY = "sha256:" + "0" * 64


@pytest.fixture
async def bench(tmp_path: Path, registry: FaultRegistry) -> AsyncIterator[Bench]:
    async with Bench.open(tmp_path, registry, enable_schema1=True) as opened:
        yield opened


def serve(registry: FaultRegistry) -> None:
    """Two layers that hold something, the upper one listed twice, and one that does not."""
    lower, upper = (registry.add_blob(layer(n).blob).digest for n in (0, 1))
    top = {"throwaway": True, "config": {"User": "me"}, "os": "linux"}
    document = manifest((EMPTY, top), (upper, {}), (upper, {}), (lower, {}))
    registry.add_manifest(REPOSITORY, "latest", media_types.DOCKER_MANIFEST_V1, document)


async def test_an_unsigned_one_and_again_when_all_is_here(
    bench: Bench, registry: FaultRegistry
) -> None:
    serve(registry)
    pulled = await bench.pull()
    assert (pulled.repo_digest, pulled.image.record.user) == ("", "me")
    tree = await bench.tree(pulled.image.id)
    assert set(tree) == {"d", "d/0", "d/1", "top"}
    fetched = len(registry.gets(BLOB))
    assert (await bench.pull()).image == pulled.image
    assert len(registry.gets(BLOB)) == fetched
    await bench.parts.remover.remove(pulled.image.id)
    await bench.nothing_is_left()


async def test_a_registry_that_answers_no_head_is_told(
    bench: Bench, registry: FaultRegistry
) -> None:
    serve(registry)
    registry.faults.append(status(405, where=BLOB, method="HEAD"))
    with pytest.raises(RegistryError, match="size by a HEAD"):
        await bench.pull()
    assert bench.shown() == set()


async def test_a_layer_that_unpacks_to_nothing_sound(bench: Bench, registry: FaultRegistry) -> None:
    broken = registry.add_blob(b"no archive" * 100).digest
    document = manifest((broken, {}))
    registry.add_manifest(REPOSITORY, "latest", media_types.DOCKER_MANIFEST_V1, document)
    with pytest.raises(CorruptContentError, match=broken):
        await bench.pull()
    await bench.nothing_is_left()


async def test_it_is_off_by_default_and_layers_have_a_limit(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    serve(registry)
    async with Bench.open(tmp_path / "off", registry) as bench:
        with pytest.raises(UnsupportedContentError, match=r"image\.enable_schema1"):
            await bench.pull()
    small = Limits(layer_bytes=10)
    async with Bench.open(tmp_path / "on", registry, limits=small, enable_schema1=True) as bench:
        with pytest.raises(LimitExceededError, match="limit 10"):
            await bench.pull()
        assert registry.gets(BLOB) == []
