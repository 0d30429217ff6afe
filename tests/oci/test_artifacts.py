"""Artifacts in the form of images: what becomes a layer, and under which name."""

from __future__ import annotations

import pytest

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.tar.reader import TarReader
from cri_imaged.limits import Limits
from cri_imaged.oci.artifacts import NO_ARCHIVE, image_id, read_image
from cri_imaged.oci.descriptor import TITLE
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest, parse_document
from cri_imaged.oci.media_types import FILE_LAYER, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP
from tests.support.artifacts import EMPTY, Artifact, Blob, chart, module, titled
from tests.support.images import MANIFEST

UNPACK = {"io.deis.oras.content.unpack": "true"}


def read(artifact: Artifact) -> tuple[Manifest, Config]:
    manifest = parse_document(artifact.manifest, MANIFEST, Limits())
    assert isinstance(manifest, Manifest)
    return read_image(manifest, artifact.config, Limits())


def names(artifact: Artifact) -> list[str]:
    """Of the files, and the types of the archives."""
    layers = read(artifact)[0].layers
    return [
        each.annotations[TITLE] if each.media_type == FILE_LAYER else each.media_type
        for each in layers
    ]


@pytest.mark.parametrize(
    ("blobs", "found"),
    [
        ([titled("a", b"a", "text/plain"), titled("b/c", b"b", "x/y")], ["a", "b/c"]),
        ([titled("./a", b"a", "text/plain")], ["a"]),
        # Files that ORAS was told no type of, and a folder that it packed.
        ([titled("a.txt", b"a")], ["a.txt"]),
        ([titled("dir", b"a", **UNPACK)], [OCI_LAYER]),
        ([titled("dir", b"a", OCI_LAYER_GZIP, **UNPACK)], [OCI_LAYER_GZIP]),
        ([titled("layer.tar.gz", b"a", OCI_LAYER_GZIP)], [OCI_LAYER_GZIP]),
        # Files lie over what archives hold.
        ([titled("a", b"a", "x/y"), Blob(b"b", OCI_LAYER)], [OCI_LAYER, "a"]),
        # One blob under two names, and one that is listed twice.
        ([titled("a", b"a"), titled("b", b"a")], ["a", "b"]),
        ([titled("a", b"a"), titled("a", b"a")], ["a"]),
        # What stands for nothing.
        ([Blob(b"{}", EMPTY)], []),
        ([titled("a", b"{}", EMPTY)], ["a"]),
        ([], []),
    ],
)
def test_what_becomes_a_layer(blobs: list[Blob], found: list[str]) -> None:
    assert names(Artifact(blobs)) == found


@pytest.mark.parametrize("artifact", [chart(b"chart"), module()])
def test_a_file_without_a_title_is_named_by_its_digest(artifact: Artifact) -> None:
    assert names(artifact) == [Digest.of(artifact.blobs[0].data).hex]


@pytest.mark.parametrize(
    "title",
    [
        *("..", ".", "../a", "a/../../b", "a/..", "/", "/etc/passwd", "a//b", "a/", "a/./b"),
        *("a\0b", ".wh.a", "a/.wh..wh..opq", "./", "././a", "x" * 256, "a/" * 2048 + "a"),
    ],
)
def test_a_title_that_is_no_files_name_in_a_view(title: str) -> None:
    with pytest.raises(CorruptContentError, match="cannot be a file's name in a view"):
        read(Artifact([titled("good", b"g"), titled(title, b"a", "x/y")]))


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        (("a", "a"), "two different blobs have the title 'a'"),
        (("a", "./a"), "two different blobs have the title 'a'"),
        (("a", "a/b"), "'a/b' lies in 'a', which is a file"),
        (("a/b/c", "a"), "'a/b/c' lies in 'a', which is a file"),
    ],
)
def test_titles_that_get_in_each_others_way(titles: tuple[str, str], message: str) -> None:
    with pytest.raises(CorruptContentError, match=message):
        read(Artifact([titled(titles[0], b"1"), titled(titles[1], b"2")]))


def test_what_stands_for_a_diff_id_depends_on_all_that_the_tree_does() -> None:
    blobs = [
        titled("a", b"a"),
        titled("b", b"a"),
        titled("a", b"b"),
        Blob(b"a", OCI_LAYER),
        Blob(b"a", OCI_LAYER_GZIP),
    ]
    stand = [read(Artifact([blob]))[1].diff_ids for blob in blobs]
    assert len({each for (each,) in stand}) == len(blobs)
    again = read(Artifact([titled("a", b"a", "other/type")], b"other", "x/y"))[1].diff_ids
    assert again == stand[0], "the name and the bytes are all that there is"


def test_no_archive_begins_as_what_is_hashed_for_such_a_name() -> None:
    assert len(NO_ARCHIVE) == 512
    with pytest.raises(CorruptContentError):
        list(TarReader(Limits()).feed(NO_ARCHIVE))


@pytest.mark.parametrize("config", [b"{}", b"[]", b"no JSON", b"\xff", b"", b"[" * 100_000])
def test_any_config_will_do(config: bytes) -> None:
    made = Artifact([titled("a", b"a")], config, "application/vnd.example.config")
    manifest, found = read(made)
    assert (found.is_artifact, found.user) == (True, "")
    assert image_id(Digest(made.id), manifest, found) == made.id


def test_an_image_is_left_as_it_is() -> None:
    made = Artifact([Blob(b"a", OCI_LAYER)], b'{"rootfs": {}}', OCI_CONFIG)
    manifest = parse_document(made.manifest, MANIFEST, Limits())
    assert isinstance(manifest, Manifest)
    found, config = read_image(manifest, made.config, Limits())
    assert (found, config.diff_ids) == (manifest, ())
    assert image_id(Digest(made.id), manifest, config) == manifest.config.digest
