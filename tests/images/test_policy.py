"""Images that a node removes by itself: which ones, and never others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.config.options import ImageOptions
from cri_imaged.config.upkeep import GcOptions, PreloadOptions
from cri_imaged.config.values import ByteSize, ImageName
from cri_imaged.images.policy.collector import ImageCollector
from cri_imaged.images.policy.decide import Candidate, Rules, decide
from cri_imaged.images.store import Image
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.pattern import NamePattern
from cri_imaged.oci.reference import Reference
from cri_imaged.upkeep import Upkeep
from tests.images.test_archives import import_into, layout, tar_of
from tests.images.workbench import Bench, image_of, layer, serve
from tests.support.registry import FaultRegistry

NOW = 1_000_000.0
HOUR = 3600.0


def candidate(name: str, age: float, parts: dict[str, int], **more: bool) -> Candidate:
    return Candidate(
        id=Digest.of(name.encode()),
        handler="",
        names=(f"docker.io/library/{name}:latest",),
        last_used=NOW - age,
        held=more.get("held", False),
        imported=more.get("imported", False),
        parts=parts,
    )


candidates = st.lists(
    st.builds(
        candidate,
        st.text("abc", min_size=1, max_size=6),
        st.floats(0, 100 * HOUR),
        st.dictionaries(st.sampled_from("pqrstuv"), st.just(10), max_size=4),
        held=st.booleans(),
        imported=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)
rules = st.builds(
    Rules,
    max_age=st.sampled_from([0.0, HOUR, 50 * HOUR]),
    max_bytes=st.sampled_from([0, 1, 25]),
    keep=st.sampled_from([(), (NamePattern("*/a*"),), (Reference.parse("b").canonical(),)]),
    keep_imported=st.booleans(),
)


@given(candidates, rules)
def test_what_goes_may_go_and_what_is_told_is_freed(images: list[Candidate], rules: Rules) -> None:
    gone = list(decide(images, rules, NOW))
    left = [image for image in images if image not in [each.image for each in gone]]
    assert [each.image.last_used for each in gone] == sorted(each.image.last_used for each in gone)
    for each in gone:
        assert not each.image.held
        assert NOW - each.image.last_used >= 600
        assert not (each.image.imported and rules.keep_imported)
        assert not rules.keeps(each.image.names)
        assert each.reason == "size" or NOW - each.image.last_used > rules.max_age > 0

    def taken(images: list[Candidate]) -> int:
        return 10 * len({part for image in images for part in image.parts})

    assert sum(each.bytes for each in gone) == taken(images) - taken(left)
    if not rules.wanted:
        assert gone == []
    movable = [
        image
        for image in left
        if not image.held
        and NOW - image.last_used >= 600
        and not (image.imported and rules.keep_imported)
        and not rules.keeps(image.names)
    ]
    if rules.max_age:
        assert all(NOW - image.last_used <= rules.max_age for image in movable)
    if rules.max_bytes and movable:
        assert taken(left) <= rules.max_bytes


def test_shared_parts_are_freed_with_their_last_image() -> None:
    images = [
        candidate("old", 90 * HOUR, {"base": 100, "old": 1}),
        candidate("new", 80 * HOUR, {"base": 100, "new": 2}),
        candidate("young", 60, {"young": 1000}),
    ]
    freed = [each.bytes for each in decide(images, Rules(max_age=HOUR), NOW)]
    assert freed == [1, 102]
    [only] = decide(images, Rules(max_bytes=1102), NOW)
    assert (only.image.names, only.reason) == (images[0].names, "size")


def collector(bench: Bench, rules: Rules) -> ImageCollector:
    parts = bench.parts
    removed = parts.metrics.upkeep.removed
    database = parts.base.stores.database
    return ImageCollector(database, parts.store, parts.remover, {}, rules, removed)


async def age_all(bench: Bench) -> None:
    """As if all had been pulled, and used, a day ago."""
    then = time.time() - 24 * HOUR

    def rewrite(db):  # type: ignore[no-untyped-def]
        db.execute("UPDATE images SET created = ?, used = ?", (then, then))
        db.execute("UPDATE names SET updated = ?", (then,))

    await bench.parts.base.stores.database.write(rewrite)


async def test_old_images_go_but_what_is_mounted_pinned_kept_or_imported(
    bench: Bench, registry: FaultRegistry, tmp_path: Path
) -> None:
    for tag in ("old", "mounted", "pinned", "kept"):
        serve(registry, image_of(layer(hash(tag) % 1000)), tag)
        await bench.pull(tag)
    files = layout(tmp_path / "layout", "r.example/imported:1", image_of(layer(1)))
    await import_into(bench, tar_of(files))
    await bench.parts.views.create(bench.name("mounted"), "", "look", writable=False)
    bench.parts.base.pins.configure([Reference.parse(bench.name("pinned"))])
    await bench.parts.base.publisher.repinned()
    await age_all(bench)
    keep = [Reference.parse(bench.name("kept"))]
    policy = collector(bench, Rules(max_age=HOUR, keep=keep))
    before = bench.shown()

    [removal] = await policy.collect(dry_run=True)
    assert bench.shown() == before, "a dry run removes nothing"
    assert bench.name("old") in removal.image.names
    assert removal.bytes > 0
    [removal] = await policy.collect(dry_run=False)
    assert bench.parts.store.get(bench.name("old")) is None
    count = bench.parts.metrics.registry.get_sample_value
    assert count("cri_imaged_images_removed_total", {"reason": "age"}) == 1
    assert await policy.collect(dry_run=False) == []

    await bench.parts.views.release("look")
    assert await policy.collect(dry_run=False) == [], "it was used just now"
    policy.rules = Rules(max_age=HOUR, keep_imported=False)
    await age_all(bench)
    gone = {name for each in await policy.collect(dry_run=False) for name in each.image.names}
    assert {bench.name("mounted"), bench.name("kept"), "r.example/imported:1"} <= gone
    tags = {tag for image in bench.parts.store.all() for tag in image.repo_tags}
    assert tags == {bench.name("pinned")}


@pytest.mark.parametrize("use", ["pulled", "mounted"])
async def test_what_is_used_while_others_are_removed_stays(
    bench: Bench, registry: FaultRegistry, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    for number, tag in enumerate(("first", "second")):
        serve(registry, image_of(layer(number)), tag)
        await bench.pull(tag)
    await age_all(bench)
    remove = bench.parts.remover.remove

    async def removing(name: str, handler: str = "") -> Image | None:
        if use == "pulled":
            await bench.pull("second")
        else:
            await bench.parts.views.create(bench.name("second"), "", "look", writable=False)
        return await remove(name, handler)

    monkeypatch.setattr(bench.parts.remover, "remove", removing)
    [gone] = await collector(bench, Rules(max_age=HOUR)).collect(dry_run=False)
    assert bench.name("first") in gone.image.names
    assert bench.parts.store.get(bench.name("second")) is not None


async def test_what_a_runtime_knows_may_go_and_what_its_containers_stand_on_stays(
    bench: Bench, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(1)))
    chain = (await bench.pull()).image.record.chain_id
    assert chain is not None
    runtime = bench.parts.base.stores.snapshotters["native"].for_runtime("r", lambda: None)
    assert runtime is not None
    await runtime.adopt([chain])
    await runtime.prepare("container", chain, {})
    policy = collector(bench, Rules(max_age=HOUR))
    await age_all(bench)
    assert await policy.collect(dry_run=False) == []
    await runtime.remove("container")
    await age_all(bench)
    assert len(await policy.collect(dry_run=False)) == 1


async def test_a_pull_makes_an_imported_image_a_registrys(
    bench: Bench, registry: FaultRegistry, tmp_path: Path
) -> None:
    image = image_of(layer(1))
    await import_into(bench, tar_of(layout(tmp_path / "layout", bench.name(), image)))
    assert bench.rows("SELECT imported FROM images") == [(1,)]
    serve(registry, image)
    await bench.pull()
    assert bench.rows("SELECT imported FROM images") == [(0,)]


async def test_nothing_goes_where_nothing_is_configured(
    bench: Bench, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(1)))
    await bench.pull()
    await age_all(bench)
    assert await collector(bench, Rules()).collect(dry_run=False) == []


async def test_what_would_be_pulled_again_stays(bench: Bench, registry: FaultRegistry) -> None:
    for number, tag in enumerate(("listed", "other")):
        serve(registry, image_of(layer(number)), tag)
        await bench.pull(tag)
    await age_all(bench)
    listed = ImageName(Reference.parse(bench.name("listed")).canonical())
    options = ImageOptions(
        gc=GcOptions(max_bytes=ByteSize(1)),
        preload=PreloadOptions(images=[listed], pinned=False),
    )
    parts = bench.parts
    kept = Upkeep(options, parts.base, parts.puller, parts.importer, parts.remover, {})
    [gone] = await kept.images.collect(dry_run=False)
    assert bench.name("other") in gone.image.names
