"""Labels by containerd's names."""

from __future__ import annotations

from pathlib import Path

from cri_imaged.images.store import Image as Shown
from cri_imaged.oci.reference import Reference
from tests.images.test_archives import export_from, import_into
from tests.images.workbench import Bench, image_of, layer, serve
from tests.support.images import sha256
from tests.support.registry import FaultRegistry


async def labels(bench: Bench, image: Shown) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The image's own, and its content's by digest."""
    async with bench.parts.inspector.details(image) as details:
        content = {each.digest: dict(each.labels) for each in details.content}
        return dict(details.labels), content


async def test_record_and_content_have_the_labels_that_tools_read(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    image = image_of(layer(0), layer(1))
    for repository in ("team/app", "library/demo"):
        serve(registry, image, "1", repository)
    pinned = Reference.parse(f"{registry.authority}/team/app:1")
    async with Bench.open(tmp_path, registry, pinned_images={"it": pinned}) as bench:
        first = await bench.pull("1")
        source = f"containerd.io/distribution.source.{registry.authority}"
        documents = [sha256(image.manifest), sha256(image.config)]
        diff_ids = {sha256(each.blob): each.diff_id for each in image.layers}

        own, content = await labels(bench, first.image)
        assert own == {"io.cri-containerd.image": "managed"}
        assert content == {
            **{digest: {source: "library/demo"} for digest in documents},
            **{
                digest: {source: "library/demo", "containerd.io/uncompressed": diff_id}
                for digest, diff_id in diff_ids.items()
            },
        }

        again = await bench.pull("1", repository="team/app")
        own, content = await labels(bench, again.image)
        assert own["io.cri-containerd.pinned"] == "pinned"
        assert {each[source] for each in content.values()} == {"library/demo,team/app"}


async def test_what_was_imported_came_from_no_registry(
    tmp_path: Path, registry: FaultRegistry
) -> None:
    serve(registry, image_of(layer(0)), "1")
    async with Bench.open(tmp_path, registry) as bench:
        pulled = await bench.pull("1")
        archive = await export_from(bench, bench.name("1"))
        await bench.parts.remover.remove(pulled.image.id)
        await import_into(bench, archive)
        imported = bench.parts.store.get(bench.name("1"))
        assert imported is not None
        own, content = await labels(bench, imported)
        assert own == {"io.cri-containerd.image": "managed"}
        assert {key for each in content.values() for key in each} == {"containerd.io/uncompressed"}
        again = await bench.pull("1")
        _, content = await labels(bench, again.image)
        source = f"containerd.io/distribution.source.{registry.authority}"
        assert {each[source] for each in content.values()} == {"library/demo"}
