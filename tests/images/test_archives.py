"""Images in and out of one file: what is taken, what is refused, and what is left of it."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cri_imaged.errors import (
    CorruptContentError,
    ImagedError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
    UnsupportedContentError,
)
from cri_imaged.images.archives.importer import Imported
from cri_imaged.limits import ARCHIVE_TAIL_BYTES
from tests.images.workbench import REPOSITORY, Bench, image_of, layer, serve, until
from tests.support import images
from tests.support.images import Image, sha256, with_wrong_diff_id, write_layout
from tests.support.registry import FaultRegistry

Files = Mapping[str, bytes]


def tar_of(
    files: Files, links: Mapping[str, str] | None = None, form: int = tarfile.GNU_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def files_below(top: Path) -> dict[str, bytes]:
    return {
        path.relative_to(top).as_posix(): path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def layout(at: Path, name: str, *each: Image) -> dict[str, bytes]:
    return files_below(write_layout(at, name, *each))


def docker_archive(*saved: tuple[Image, list[str]]) -> tuple[dict[str, bytes], dict[str, str]]:
    """As skopeo and podman write it: layers once, and links from the folder of each image."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    listed = []
    for image, tags in saved:
        files[f"{image.id[7:]}.json"] = image.config
        for each in image.layers:
            files[f"{each.diff_id[7:]}.tar"] = each.blob
            links[f"{image.id[7:20]}/{each.diff_id[7:]}/layer.tar"] = (
                f"../../{each.diff_id[7:]}.tar"
            )
        listed.append(
            {
                "Config": f"{image.id[7:]}.json",
                "RepoTags": tags,
                "Layers": [
                    f"{image.id[7:20]}/{each.diff_id[7:]}/layer.tar" for each in image.layers
                ],
            }
        )
    files["manifest.json"] = json.dumps(listed).encode()
    return files, links


async def in_pieces(data: bytes, size: int = 777) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def import_into(bench: Bench, data: bytes, name: str = "", **more: Any) -> list[Imported]:
    handler = bench.parts.puller.handlers.of(more.get("handler", ""))
    async with aclosing(bench.parts.importer.run(in_pieces(data), handler, name)) as imported:
        return [each async for each in imported]


async def export_from(bench: Bench, *names: str, docker: bool = False) -> bytes:
    async with aclosing(bench.parts.exporter.run(names, "", docker=docker)) as pieces:
        return b"".join([piece async for piece in pieces])


def blobs_in(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


# --- what is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_an_oci_layout_keeps_its_digests(bench: Bench, tmp_path: Path, form: int) -> None:
    image = image_of(layer(1), layer(2, compression="zstd"))
    files = layout(tmp_path / "layout", "registry.example/app:v1", image)
    [imported] = await import_into(bench, tar_of(files, form=form))
    digest = sha256(image.manifest)
    assert imported.image_id == image.id
    assert imported.target == digest
    assert bench.shown() == {"registry.example/app:v1", f"registry.example/app@{digest}"}
    tree = await bench.tree("registry.example/app:v1")
    assert tree["d/1"] is not None
    assert tree["top"] == b"2"
    assert bench.rows("SELECT DISTINCT repository FROM provenance") == [("import",)]


async def test_docker_save_gives_every_image_with_every_tag(bench: Bench) -> None:
    shared = layer(0, compression="none")
    one = image_of(shared, layer(1, compression="none"))
    two = image_of(shared, layer(2))
    files, links = docker_archive((one, ["app:1", "registry.example/app:one"]), (two, ["app:2"]))
    imported = await import_into(bench, tar_of(files, links))
    assert [each.image_id for each in imported] == [one.id, two.id]
    assert bench.shown() == {
        "docker.io/library/app:1",
        "registry.example/app:one",
        "docker.io/library/app:2",
    }
    assert (await bench.tree("app:2"))["top"] == b"2"
    again = await import_into(bench, tar_of(files, links))
    assert again == imported, "the manifest that is made up is the same each time"


async def test_long_names_and_a_name_in_the_archive_that_climbs_out(bench: Bench) -> None:
    """Names are looked up, and never become paths."""
    image = image_of(layer(1, compression="none"))
    deep = "../" * 40 + "x" * 200
    files, _ = docker_archive((image, ["app:1"]))
    files[deep] = files.pop(f"{image.id[7:]}.json")
    [saved] = json.loads(files["manifest.json"])
    saved["Config"] = deep
    saved["Layers"] = [f"{image.layers[0].diff_id[7:]}.tar"]
    files["manifest.json"] = json.dumps([saved]).encode()
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        [imported] = await import_into(bench, tar_of(files, form=form))
        assert imported.image_id == image.id


async def test_names_are_the_archives_unless_one_is_given(bench: Bench, tmp_path: Path) -> None:
    image = image_of(layer(1))
    bare = tar_of(layout(tmp_path / "bare", "v1", image))
    [imported] = await import_into(bench, bare)
    assert imported.names == ()
    assert [each.id for each in bench.parts.store.all()] == [image.id]

    [imported] = await import_into(bench, bare, "registry.example/app")
    assert imported.names[0] == "registry.example/app:v1"
    [imported] = await import_into(bench, bare, "registry.example/app:mine")
    assert imported.names[0] == "registry.example/app:mine"

    two = layout(tmp_path / "two", "v1", image_of(layer(2)))
    write_layout(tmp_path / "two", "v2", image_of(layer(3)))
    two = files_below(tmp_path / "two")
    found = await import_into(bench, tar_of(two), "registry.example/other")
    assert {each.names[0] for each in found} == {
        "registry.example/other:v1",
        "registry.example/other:v2",
    }
    with pytest.raises(InvalidRequestError, match="holds 2 images"):
        await import_into(bench, tar_of(two), "registry.example/other:v1")


@pytest.mark.parametrize("name", ["v1+meta", "my image", "Upper/Case:1"])
async def test_what_only_its_writer_calls_an_image_is_no_name(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    image = image_of(layer(1))
    archive = tar_of(layout(tmp_path / "layout", name, image))
    [imported] = await import_into(bench, archive)
    assert (imported.image_id, imported.names) == (image.id, ())
    [imported] = await import_into(bench, archive, "app:2")
    assert imported.names[0] == "docker.io/library/app:2"


async def test_odd_names_in_dockers_format(bench: Bench) -> None:
    image = image_of(layer(1))
    files, links = docker_archive((image, ["<none>:<none>"]))
    [saved] = json.loads(files["manifest.json"])
    files["manifest.json"] = json.dumps([{**saved, "Config": f"./{saved['Config']}"}]).encode()
    [imported] = await import_into(bench, tar_of(files, links))
    assert (imported.image_id, imported.names) == (image.id, ())
    files, links = docker_archive((image, ["UPPER"]))
    with pytest.raises(InvalidRequestError, match=r"archive: .*lower case; give .* \(--name\)"):
        await import_into(bench, tar_of(files, links))


async def test_an_image_of_two_tags_gets_both(bench: Bench, tmp_path: Path) -> None:
    image = image_of(layer(1))
    for tag in ("v1", "latest"):
        write_layout(tmp_path / "layout", tag, image)
    both = tar_of(files_below(tmp_path / "layout"))
    digest = sha256(image.manifest)
    await import_into(bench, both, "registry.example/app")
    assert bench.shown() == {
        "registry.example/app:v1",
        "registry.example/app:latest",
        f"registry.example/app@{digest}",
    }


async def test_an_index_gives_the_image_of_the_platform(bench: Bench, tmp_path: Path) -> None:
    ours, theirs = image_of(layer(1)), Image((layer(2),), architecture="s390x")
    files = layout(tmp_path / "layout", "registry.example/app:v1", theirs, ours)
    [imported] = await import_into(bench, tar_of(files))
    assert imported.image_id == ours.id
    with pytest.raises(NotFoundError, match="s390x"):
        await import_into(bench, tar_of(layout(tmp_path / "no", "a/b:1", theirs, theirs)))


async def test_what_is_of_no_known_type_in_a_layout_is_passed_over(
    bench: Bench, tmp_path: Path
) -> None:
    image = image_of(layer(1))
    files = layout(tmp_path / "layout", "registry.example/app:v1", image)
    index = json.loads(files["index.json"])
    stranger = {"mediaType": "application/x", "digest": f"sha384:{'0' * 96}", "size": 1}
    index["manifests"].insert(0, stranger)
    [imported] = await import_into(
        bench, tar_of({**files, "index.json": json.dumps(index).encode()})
    )
    assert imported.image_id == image.id


async def test_a_hundred_images_of_one_file(bench: Bench, tmp_path: Path) -> None:
    base = layer(0)
    made = [image_of(base, process=str(n)) for n in range(100)]
    files, links = docker_archive(*((each, [f"app:{n}"]) for n, each in enumerate(made)))
    imported = await import_into(bench, tar_of(files, links))
    assert len(imported) == 100
    assert bench.shown() == {f"docker.io/library/app:{n}" for n in range(100)}
    archive = await export_from(bench, *(f"app:{n}" for n in range(100)), docker=True)
    listed = json.loads(blobs_in(archive)["manifest.json"])
    assert len(listed) == 100
    assert {tag for each in listed for tag in each["RepoTags"]} == bench.shown()


# --- what is refused ----------------------------------------------------------------------------


async def test_a_file_that_is_cut_off_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    """Wherever it is cut: in a header, in a blob, between entries, before the end marker."""
    files = layout(tmp_path / "layout", "registry.example/app:v1", image_of(layer(1)))
    whole = tar_of(files)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        ends = [member.offset for member in tar.getmembers()]
    for cut in (0, 100, 512, *ends, ends[-1] + 700, len(whole.rstrip(b"\0"))):
        with pytest.raises(CorruptContentError, match="cut off"):
            await import_into(bench, whole[:cut])
        assert bench.shown() == set()
    await bench.nothing_is_left()


async def test_a_client_that_leaves_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    files = layout(tmp_path / "layout", "registry.example/app:v1", image_of(layer(1, 300_000)))
    sent = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield tar_of(files)[:200_000]
        sent.set()
        await asyncio.Event().wait()

    async def run() -> None:
        handler = bench.parts.puller.handlers.of("")
        async with aclosing(bench.parts.importer.run(stalls(), handler)) as imported:
            [_ async for _ in imported]

    task = asyncio.create_task(run())
    await sent.wait()
    await until(bench.partial)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.nothing_is_left()


def damaged_layouts(at: Path) -> dict[str, tuple[bytes, type[ImagedError], str]]:
    image = image_of(layer(1))
    good = layout(at / "good", "registry.example/app:v1", image)
    blob = f"blobs/sha256/{sha256(image.layers[0].blob)[7:]}"
    lying = layout(at / "lying", "a.example/b:1", image_of(with_wrong_diff_id(layer(2))))
    index = json.loads(good["index.json"])
    index["manifests"][0]["size"] += 1
    other = dict(good["index.json"] and index["manifests"][0], size=len(image.manifest))
    notes = {"org.opencontainers.image.ref.name": f"a.example/b@{sha256(b'other')}"}
    return {
        "a blob with other bytes": (
            tar_of({**good, blob: b"x" + good[blob][1:]}),
            CorruptContentError,
            "other bytes",
        ),
        "a layer that is left out": (
            tar_of({name: data for name, data in good.items() if name != blob}),
            CorruptContentError,
            "is not in it",
        ),
        "a layer that unpacks to something else": (
            tar_of(lying),
            CorruptContentError,
            "unpacks to diffID",
        ),
        "a wrong size": (
            tar_of({**good, "index.json": json.dumps(index).encode()}),
            CorruptContentError,
            "size|bytes",
        ),
        "a name with another digest": (
            tar_of(
                {
                    **good,
                    "index.json": json.dumps(
                        {"schemaVersion": 2, "manifests": [{**other, "annotations": notes}]}
                    ).encode(),
                }
            ),
            InvalidRequestError,
            "has the digest",
        ),
        "no layout": (tar_of({"hello": b"x"}), CorruptContentError, "docker save"),
        "an empty layout": (
            tar_of({"index.json": b'{"schemaVersion": 2, "manifests": []}'}),
            CorruptContentError,
            "no image",
        ),
        "no tar": (b"x" * 2000, CorruptContentError, "no tar"),
        "xz": (lzma.compress(os.urandom(2000)), UnsupportedContentError, "packed by xz: unpack"),
        "bzip2": (bz2.compress(os.urandom(2000)), UnsupportedContentError, "packed by bzip2"),
        "lzma": (
            lzma.compress(os.urandom(2000), lzma.FORMAT_ALONE),
            UnsupportedContentError,
            "packed by lzma",
        ),
        "gzip twice": (gzip.compress(os.urandom(2000)), UnsupportedContentError, "packed by gzip"),
        "a link to nowhere": (
            tar_of({}, {"manifest.json": "a", "a": "manifest.json"}),
            CorruptContentError,
            "docker save",
        ),
        "a file that is not there": (
            tar_of({"manifest.json": b'[{"Config": "c", "RepoTags": null, "Layers": ["l"]}]'}),
            CorruptContentError,
            "'c' is not in it",
        ),
        "a list of anything": (
            tar_of({"manifest.json": b"[1, {}]"}),
            CorruptContentError,
            "malformed",
        ),
        "a long tail": (
            tar_of(good) + bytes(ARCHIVE_TAIL_BYTES + 1),
            LimitExceededError,
            "follow its end",
        ),
        "a huge extended header": (huge_header(), LimitExceededError, "pax_header_bytes"),
        "a header that lies about its length": (pax(b"9999 path=x\n"), CorruptContentError, "PAX"),
        "a header without an end": (pax(b"0 path=x\n"), CorruptContentError, "PAX"),
        "a size that is none": (pax(b"11 size=-5\n"), CorruptContentError, "no number"),
        "a sparse file": (typed(tarfile.GNUTYPE_SPARSE), UnsupportedContentError, "type"),
    }


def typed(kind: bytes, size: int = 0) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def huge_header() -> bytes:
    return typed(tarfile.XHDTYPE, 2 << 20)


def pax(records: bytes) -> bytes:
    return typed(tarfile.XHDTYPE, len(records)) + records.ljust(512, b"\0") + tar_of({"x": b""})


async def test_what_is_wrong_is_named_and_nothing_of_it_is_left(
    bench: Bench, tmp_path: Path
) -> None:
    for what, (data, kind, message) in damaged_layouts(tmp_path).items():
        with pytest.raises(kind, match=message):
            await import_into(bench, data)
        assert bench.parts.store.all() == [], what
    await bench.nothing_is_left()


async def test_an_archive_may_not_use_what_it_does_not_hold(
    bench: Bench, registry: FaultRegistry, tmp_path: Path
) -> None:
    """Whoever knows the digests of a private image would read it through an image that names
    them."""
    secret = image_of(layer(7))
    serve(registry, secret)
    await bench.pull()
    files = layout(tmp_path / "layout", "evil.example/app:v1", secret)
    blob = f"blobs/sha256/{sha256(secret.layers[0].blob)[7:]}"
    del files[blob]
    with pytest.raises(CorruptContentError, match="is not in it"):
        await import_into(bench, tar_of(files))
    # Nor by a layer of its own, paired with the diffID of the private one.
    own = images.Layer(layer(8).blob, images.LAYER + "+gzip", secret.layers[0].diff_id)
    with pytest.raises(CorruptContentError, match="unpacks to diffID"):
        await import_into(
            bench, tar_of(layout(tmp_path / "own", "evil.example/b:1", image_of(own)))
        )
    assert not any("evil" in name for name in bench.shown())


async def test_what_was_imported_gives_nobody_a_right_to_a_private_image(
    bench: Bench, registry: FaultRegistry, tmp_path: Path
) -> None:
    """A pull still asks the registry for what an import brought."""
    image = image_of(layer(1))
    served = serve(registry, image)
    await import_into(bench, tar_of(layout(tmp_path / "l", "elsewhere.example/app:v1", image)))
    await bench.pull()
    assert served.layers[0].digest in {each.path.rpartition("/")[2] for each in registry.heads()}


# --- what is given ------------------------------------------------------------------------------


@pytest.mark.parametrize("docker", [False, True])
async def test_an_image_comes_back_as_it_was(
    bench: Bench, registry: FaultRegistry, docker: bool
) -> None:
    image = image_of(layer(1), layer(2, compression="zstd"))
    served = serve(registry, image)
    pulled = await bench.pull()
    tree = await bench.tree(bench.name())
    archive = await export_from(bench, bench.name(), docker=docker)
    inside = blobs_in(archive)
    assert inside[f"blobs/sha256/{served.manifest.digest.hex}"] == image.manifest
    assert ("manifest.json" in inside) is docker
    await bench.parts.remover.remove(pulled.image.id)
    await bench.nothing_is_left()
    [imported] = await import_into(bench, archive)
    assert imported.target == served.manifest.digest
    assert bench.shown() == {
        bench.name(),
        f"{bench.registry.authority}/{REPOSITORY}@{imported.target}",
    }
    assert await bench.tree(bench.name()) == tree
    assert await export_from(bench, bench.name(), docker=docker) == archive


async def test_an_image_exported_by_its_id_has_all_its_tags(
    bench: Bench, registry: FaultRegistry
) -> None:
    image = image_of(layer(1))
    for tag in ("one", "two"):
        serve(registry, image, tag)
        await bench.pull(tag)
    [*entries] = json.loads(blobs_in(await export_from(bench, image.id))["index.json"])["manifests"]
    names = {each["annotations"]["io.containerd.image.name"] for each in entries}
    assert names == {bench.name("one"), bench.name("two")}
    inside = json.loads(blobs_in(await export_from(bench, bench.name("two")))["index.json"])
    assert [each["annotations"]["io.containerd.image.name"] for each in inside["manifests"]] == [
        bench.name("two")
    ]


async def test_what_cannot_be_exported_is_said(bench: Bench, registry: FaultRegistry) -> None:
    with pytest.raises(NotFoundError, match="no image nothing"):
        await export_from(bench, "nothing")
    image = image_of(layer(1))
    served = serve(registry, image)
    await bench.pull()
    path = bench.root / "content/blobs/sha256" / served.layers[0].digest.hex
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CorruptContentError, match="damaged on disk"):
        await export_from(bench, bench.name())
