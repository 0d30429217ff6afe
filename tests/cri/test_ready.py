"""Answers that are put together from ready bytes: what protobuf would have made of the store."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.cri import convert
from cri_imaged.cri.ready import ReadyImages
from cri_imaged.images.events import Events
from cri_imaged.images.pins import Pins
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.store import Image, ImageStore
from cri_imaged.metadata import blobs, images
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import NewImage
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.media_types import OCI_MANIFEST
from cri_imaged.rpc.runtime.v1 import api_pb2 as cri

M = Digest.of(b"manifest")
NAMES = [f"docker.io/library/{name}:1" for name in "abcdé"]
Change = NewImage | tuple[Digest, str] | frozenset[str]
HANDLERS = ["", "vm"]
IDS = [Digest.of(bytes([number])) for number in range(5)]

pulls = st.builds(
    NewImage,
    image_id=st.sampled_from(IDS),
    handler=st.sampled_from(HANDLERS),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
    target=st.just(Descriptor(OCI_MANIFEST, M, 1)),
    manifest=st.just(M),
    documents=st.just(frozenset({M})),
    layers=st.just(frozenset[Digest]()),
    size=st.sampled_from([0, 1, 127, 128, 1 << 40]),
    user=st.sampled_from(["", "0", "1000:1000", "app", "ü" * 200]),
    snapshotter=st.just("native"),
    chain_id=st.none(),
)
removals = st.tuples(st.sampled_from(IDS), st.sampled_from(HANDLERS))
pinnings = st.frozensets(st.sampled_from(NAMES))
changes = st.lists(st.one_of(pulls, removals, pinnings), max_size=12)


def shown_id(image: Image) -> str:
    return image.id.hex


def message(image: Image) -> cri.Image:
    return convert.image_message(image, shown_id(image))


def joined(ready: ReadyImages) -> bytes:
    return b"".join(ready.all())


async def change(publisher: Publisher, database: Database, pins: Pins, what: Change) -> None:
    match what:
        case NewImage():
            target = Descriptor(OCI_MANIFEST, Digest.of(what.image_id.encode()), 1)
            new = replace(what, names=(what.image_id, *what.names), target=target)
            await database.write(lambda db: images.save(db, new))
            await publisher.update(new.names, new.handler)
        case (image_id, handler):
            await database.write(lambda db: images.remove(db, image_id, handler))
            await publisher.refresh(image_id, handler)
        case frozenset():
            pins.asked_for = what
            publisher.store.repin()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ready")


@settings(max_examples=25, deadline=None)
@given(before=changes, after=changes)
async def test_ready_bytes_are_what_protobuf_makes_of_the_store(
    root: Path, before: list[Change], after: list[Change]
) -> None:
    database = await Database.open(root / f"{uuid.uuid4().hex}.db")
    try:
        await database.write(lambda db: blobs.insert(db, M, 1, None))
        pins = Pins()
        store = ImageStore(database, pins, ["vm"])
        publisher = Publisher(store, Events())
        for each in before:
            await change(publisher, database, pins, each)
        ready = ReadyImages(store, shown_id)
        for each in (None, *after):
            if each is not None:
                await change(publisher, database, pins, each)
            shown = store.all()
            wanted = [message(image) for image in shown]
            assert joined(ready) == cri.ListImagesResponse(images=wanted).SerializeToString()
            assert joined(ready) == cri.StreamImagesResponse(images=wanted).SerializeToString()
            for image, one in zip(shown, wanted, strict=True):
                assert ready.of(image) == cri.ImageStatusResponse(image=one).SerializeToString()
                assert store.of(image.id) == [x for x in shown if x.id == image.id]
                assert store.resolve(image.id.hex, image.record.handler) == image.id
            await store.load()
            assert joined(ready) == cri.ListImagesResponse(images=wanted).SerializeToString()
    finally:
        await database.close()


async def test_a_list_in_batches_keeps_up_with_changes(root: Path) -> None:
    database = await Database.open(root / "batches.db")
    try:
        await database.write(lambda db: blobs.insert(db, M, 1, None))
        pins = Pins()
        publisher = Publisher(ImageStore(database, pins, ["vm"]), Events())

        async def pulled(number: int) -> None:
            new = NewImage(
                image_id=IDS[number],
                handler="",
                names=(NAMES[number],),
                target=Descriptor(OCI_MANIFEST, M, 1),
                manifest=M,
                documents=frozenset({M}),
                layers=frozenset(),
                size=1,
                user="",
                snapshotter="native",
                chain_id=None,
            )
            await change(publisher, database, pins, new)

        for number in range(4):
            await pulled(number)
        batches = ReadyImages(publisher.store, shown_id).batches(2)
        first = next(batches)
        await change(publisher, database, pins, (IDS[0], ""))  # it was shown already
        await change(publisher, database, pins, (IDS[2], ""))
        await change(publisher, database, pins, frozenset({NAMES[3]}))
        await pulled(4)
        images = cri.StreamImagesResponse.FromString(first + b"".join(batches)).images
        assert [(each.id, each.pinned) for each in images] == [
            (IDS[number].hex, number == 3) for number in (0, 1, 3, 4)
        ]
    finally:
        await database.close()
