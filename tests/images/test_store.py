"""The in-memory image store, with containerd's semantics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri_imaged.errors import InvalidRequestError
from cri_imaged.images.events import Events
from cri_imaged.images.pins import Pins
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.store import ImageStore
from cri_imaged.metadata import blobs, images
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import NewImage
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_MANIFEST
from cri_imaged.oci.reference import Reference

LIB = "docker.io/library/"
M = Digest.of(b"manifest")
PINS = Pins([Reference.parse("pinned:1")])


class Bench:
    def __init__(self, database: Database, store: ImageStore) -> None:
        self.database, self.store = database, store

    async def add(self, image_id: str, *names: str, handler: str = "") -> Digest:
        """Make an image known as a pull does."""
        digest = Digest(image_id if ":" in image_id else f"sha256:{image_id:0<64}")
        new = NewImage(
            image_id=digest,
            handler=handler,
            names=(digest, *names),
            target=Descriptor(OCI_MANIFEST, Digest.of(digest.encode()), 1),
            manifest=M,
            documents=frozenset({M}),
            layers=frozenset(),
            size=1,
            user="",
            snapshotter="native",
            chain_id=None,
        )
        await self.database.write(lambda db: blobs.insert(db, M, 1, None))
        await self.database.write(lambda db: images.save(db, new))
        await Publisher(self.store, Events()).update(new.names, handler)
        return digest

    async def remove(self, digest: Digest, handler: str = "") -> None:
        await self.database.write(lambda db: images.remove(db, digest, handler))
        await self.store.refresh(digest, handler)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = await Database.open(tmp_path / "m.db")
    yield Bench(database, ImageStore(database, PINS, ["vm", "other"]))
    await database.close()


async def test_an_image_by_each_of_its_names(bench: Bench) -> None:
    digest = f"{LIB}a@{Digest.of(b'x')}"
    image_id = await bench.add("abc", LIB + "a:latest", digest)
    for name in (
        *(image_id, image_id.hex, image_id[:20], "abc", "sha256:ab", "a", "a:latest"),
        *("docker.io/a", "library/a", LIB + "a:latest", digest, f"a:old@{Digest.of(b'x')}"),
    ):
        image = bench.store.get(name)
        assert image is not None, name
        assert image.id == image_id
    for name in ("b", "a:other", "abd", "sha256:b", "host.example/a", f"a@{image_id}"):
        assert bench.store.get(name) is None, name
        assert bench.store.resolve(name) is None, name


@pytest.mark.parametrize("name", ["", "A", "a:b:c", "sha256:-", "a b", "a@sha256:1"])
async def test_what_is_no_name(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        bench.store.get(name)


async def test_an_ambiguous_id_is_an_error_not_a_guess(bench: Bench) -> None:
    first, second = await bench.add("abc1"), await bench.add("abc2")
    with pytest.raises(InvalidRequestError, match="ambiguous"):
        bench.store.get("abc")
    with pytest.raises(InvalidRequestError, match="ambiguous"):
        bench.store.get("sha256:abc")
    for name, wanted in (("abc1", first), ("abc2", second)):
        image = bench.store.get(name)
        assert image is not None
        assert image.id == wanted
    await bench.remove(first)
    image = bench.store.get("abc")
    assert image is not None
    assert image.id == second


async def test_a_name_that_looks_like_an_id_is_a_name_first(bench: Bench) -> None:
    """`rmi cafe` must not remove the image whose ID begins so."""
    other = await bench.add("cafe1", LIB + "other:latest")
    named = await bench.add("111", LIB + "cafe:latest")
    assert bench.store.resolve("cafe") == named
    await bench.add("cafe2")
    assert bench.store.resolve("cafe") == named
    assert bench.store.resolve("cafe1") == other
    await bench.remove(named)
    with pytest.raises(InvalidRequestError, match="ambiguous"):
        bench.store.resolve("cafe")


async def test_references_are_sorted_as_docker_sorts_them(bench: Bench) -> None:
    x = Digest.of(b"x")
    await bench.add("1", f"{LIB}b@{x}", "h.example/z:1", LIB + "b:2", LIB + "b:1", LIB + "a:9")
    await bench.add("1", f"{LIB}a@{x}")
    (image,) = bench.store.all()
    assert image.repo_tags == (LIB + "a:9", LIB + "b:1", LIB + "b:2", "h.example/z:1")
    assert image.repo_digests == (f"{LIB}a@{x}", f"{LIB}b@{x}")


async def test_a_tag_that_moves(bench: Bench) -> None:
    old = await bench.add("1", LIB + "a:1", LIB + "a:2")
    new = await bench.add("2", LIB + "a:1")
    assert {image.id: image.repo_tags for image in bench.store.all()} == {
        old: (LIB + "a:2",),
        new: (LIB + "a:1",),
    }
    assert bench.store.resolve("a:1") == new
    await bench.remove(old)
    assert bench.store.resolve("a:1") == new
    assert bench.store.get("a:2") is None


@pytest.mark.parametrize("order", [0, 1])
async def test_once_pinned_by_one_of_its_names(bench: Bench, order: int) -> None:
    names = [LIB + "pinned:1", LIB + "plain:1"]
    await bench.add("1", names[order])
    await bench.add("1", names[1 - order])
    await bench.add("2", LIB + "other:1")
    assert {image.repo_tags[0]: image.pinned for image in bench.store.all()} == {
        LIB + "pinned:1": True,
        LIB + "other:1": False,
    }


async def test_the_same_image_for_two_handlers(bench: Bench) -> None:
    image_id = await bench.add("1", LIB + "a:1")
    await bench.add("1", LIB + "a:1", handler="vm")
    for handler in ("", "vm"):
        image = bench.store.get("a:1", handler)
        assert image is not None
        assert image.record.handler == handler
    await bench.remove(image_id, "")
    image = bench.store.get("a:1")
    assert image is not None
    assert image.record.handler == "vm", "another handler's, where none is named"
    assert bench.store.get("a:1", "other") is None
    await bench.remove(image_id, "vm")
    assert bench.store.get("1") is None
    assert bench.store.all() == []


async def test_a_handler_that_is_not_configured_has_the_default_ones_images(bench: Bench) -> None:
    """As pulls for it have; else what was pulled would be absent right after."""
    await bench.add("1", LIB + "a:1")
    await bench.add("2", LIB + "b:1", handler="vm")
    image = bench.store.get("a:1", "runc")
    assert image is not None
    assert image.record.handler == ""
    assert bench.store.get("a:1", "vm") is None


async def test_what_was_pulled_for_a_handler_that_is_gone_from_the_configuration(
    bench: Bench,
) -> None:
    """The kubelet collects it by ID and handler: that must not hit the default one's image."""
    image_id = await bench.add("1", LIB + "a:1")
    await bench.add("1", LIB + "a:1", handler="retired")
    image = bench.store.get(image_id, "retired")
    assert image is not None
    assert image.record.handler == "retired"
    await bench.remove(image_id, "retired")
    image = bench.store.get(image_id, "retired")
    assert image is not None
    assert image.record.handler == "", "as for a handler that never was"


async def test_what_metadata_says_is_there_after_a_restart(bench: Bench) -> None:
    await bench.add("1", LIB + "a:1")
    await bench.add("2", LIB + "pinned:1", handler="vm")
    again = ImageStore(bench.database, PINS, ["vm", "other"])
    await again.load()
    assert again.all() == bench.store.all()
    await bench.database.write(lambda db: blobs.lost(db, [M]))
    await again.load()
    assert again.all() == []
