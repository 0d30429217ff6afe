"""A snapshot is compared with what was written down of it, or with its layer applied again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cri_imaged.errors import NotFoundError
from cri_imaged.metadata import durability
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import IMAGE, Verdict
from cri_imaged.trash import remove_tree
from tests.snapshots.conftest import opened
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
    overwrite(path)
    return IMAGE


def overwrite(image: Path) -> None:
    """Change bytes of a file in it, and nothing that shows from outside."""
    info, data = image.stat(), image.read_bytes()
    assert data.count(b"c-content") == 1
    image.write_bytes(data.replace(b"c-content", b"d-content"))
    os.utime(image, ns=(info.st_atime_ns, info.st_mtime_ns))


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


async def test_the_digest_of_a_layer_that_is_a_file_is_taken_when_it_is_durable() -> None:
    async with opened("erofs", None) as bench:
        lower = await bench.add(LOWER)
        upper = await bench.add(UPPER, lower)
        await bench.snapshotter.write_digests()
        assert await bench.snapshotter.verify(upper) == Verdict("unknown")
        await bench.database.write(lambda db: durability.mark(db, durability.volatile(db)))
        await bench.snapshotter.write_digests()
        assert await bench.snapshotter.verify(upper) == Verdict("sound")
        path = await bench.snapshotter.path(upper)
        overwrite(path)
        verdict = await bench.snapshotter.verify(upper)
        assert (verdict.state, verdict.difference) == (
            "damaged",
            f"its file has the digest {Digest.of(path.read_bytes())}",
        )
        path.unlink()
        assert (await bench.snapshotter.verify(upper)).state == "missing"


async def test_a_look_at_the_files_reads_one_that_was_written_to() -> None:
    """Whose other bytes nothing shows has to wait for a check."""
    async with opened("erofs", None) as bench:
        lower = await bench.add(LOWER)
        upper = await bench.add(UPPER, lower)
        await bench.database.write(lambda db: durability.mark(db, durability.volatile(db)))
        await bench.snapshotter.write_digests()
        image = await bench.snapshotter.path(lower)
        os.utime(image, ns=(1, 1))  # as a copy of the store has it
        for _ in range(2):
            await bench.snapshotter.notice_lost()
            assert await bench.snapshotter.info(lower) is not None
        overwrite(await bench.snapshotter.path(upper))
        await bench.snapshotter.notice_lost()
        assert await bench.snapshotter.info(upper) is not None
        os.truncate(await bench.snapshotter.path(upper), 4096)
        await bench.snapshotter.notice_lost()
        assert await bench.snapshotter.info(upper) is None
        assert await bench.snapshotter.info(lower) is not None


async def test_a_file_of_an_earlier_version_is_known_once_it_was_compared() -> None:
    """Nobody knows what it was when it came: a digest that was taken now would prove nothing."""
    async with opened("erofs", None) as bench:
        lower = await bench.add(LOWER)
        chain = await bench.add(UPPER, lower)
        await bench.database.write(lambda db: durability.mark(db, durability.volatile(db)))
        await bench.database.write(lambda db: db.execute("UPDATE snapshots SET file_digest = NULL"))
        await bench.snapshotter.write_digests()
        assert await bench.snapshotter.verify(chain) == Verdict("unknown")
        assert await again(bench, chain, UPPER) == Verdict("sound")
        assert await bench.snapshotter.verify(chain) == Verdict("sound")


async def test_what_cannot_be_read_is_damaged(bench: Bench) -> None:
    chain_id = await bench.add(LOWER)
    await bench.snapshotter.write_listing(chain_id)
    if bench.snapshotter.name == "erofs":
        image = await bench.snapshotter.path(chain_id)
        image.unlink()
        image.symlink_to("/dev/null")
        assert (await bench.snapshotter.verify(chain_id)).state == "damaged"
        return
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
