"""A snapshot is compared with what was written down of it, or with its layer applied again."""

from __future__ import annotations

import json

import pytest

from cri_imaged.errors import NotFoundError
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Verdict
from cri_imaged.trash import remove_tree
from tests.snapshots.model import Layer, Node, differences, write
from tests.snapshots.workbench import Bench, applied, model

DIRECTORIES = {b"": Node("directory", 0o755), b"d": Node("directory", 0o755)}
LOWER = Layer({**DIRECTORIES, b"d/a": Node("file", content=b"a"), b"b": Node("file", content=b"b")})
UPPER = Layer({**DIRECTORIES, b"d/c": Node("file", content=b"c-content")}, whiteouts=(b"b",))


async def again(bench: Bench, chain_id: Digest, layer: Layer) -> Verdict:
    """Compare with `layer`, applied again."""
    directory = await bench.prepare("again")
    done = write(layer, directory)
    bench.packed("again")
    return await bench.snapshotter.verify_by(chain_id, "again", done)


async def damage(bench: Bench, chain_id: Digest) -> str:
    """Change a file of it."""
    path = await bench.snapshotter.path(chain_id)
    if path.is_dir():
        (path / "d/c").write_text("d-content")
        return "d/c"
    image = path.read_bytes()
    assert image.count(b"c-content") == 1
    path.write_bytes(image.replace(b"c-content", b"d-content"))
    return path.name


async def test_a_layer_applied_again_is_the_same(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    assert await again(bench, lower, LOWER) == Verdict("sound")
    assert await again(bench, upper, UPPER) == Verdict("sound")
    name = await damage(bench, upper)
    verdict = await again(bench, upper, UPPER)
    assert verdict.state == "damaged"
    assert verdict.difference.startswith(f"'{name}' has another content")
    await bench.trash.drain()
    assert len(bench.left()) == 2, "what was applied again is gone"


async def test_a_listing_tells_what_changed_since(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    assert await bench.snapshotter.verify(upper) == Verdict("unknown")
    await bench.snapshotter.write_listing(upper)
    assert await bench.snapshotter.verify(upper) == Verdict("sound")
    await damage(bench, upper)
    await bench.snapshotter.write_listing(upper)
    assert (await bench.snapshotter.verify(upper)).state == "damaged"


async def test_a_snapshot_whose_files_are_gone(bench: Bench) -> None:
    chain_id = await bench.add(LOWER)
    remove_tree(await bench.snapshotter.path(chain_id))
    assert (await bench.snapshotter.verify(chain_id)).state == "missing"


async def test_what_cannot_be_read_is_damaged(bench: Bench) -> None:
    chain_id = await bench.add(LOWER)
    await bench.snapshotter.write_listing(chain_id)
    listing = (await bench.snapshotter.path(chain_id)).parent / "listing"
    first = json.loads(listing.read_text().splitlines()[0])
    listing.write_text(json.dumps({**first, "path": "nowhere"}) + "\n")
    assert (await bench.snapshotter.verify(chain_id)).state == "damaged"


async def test_what_is_not_there_is_not_compared(bench: Bench) -> None:
    nowhere = Digest.of(b"nowhere")
    with pytest.raises(NotFoundError):
        await bench.snapshotter.verify(nowhere)
    await bench.prepare("key")
    with pytest.raises(NotFoundError):
        await bench.snapshotter.verify_by(nowhere, "key", applied())
    await bench.snapshotter.write_listing(nowhere)
    await bench.trash.drain()
    assert bench.left() == []


async def test_what_is_given_up_is_free_again(bench: Bench) -> None:
    lower = await bench.add(LOWER)
    upper = await bench.add(UPPER, lower)
    await bench.snapshotter.give_up([lower])
    assert await bench.snapshotter.info(upper) is None
    await bench.prepare("key")
    await bench.commit(lower, "key", None, applied())
    assert differences(await bench.tree(lower), model([Layer()])) == []
