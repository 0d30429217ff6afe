"""Manifests, indexes and configs from strangers (hostile-images: the rows on documents)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.errors import (
    CorruptContentError,
    ImagedError,
    LimitExceededError,
    UnsupportedContentError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types as types
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Index, Manifest, parse_config, parse_document
from cri_imaged.oci.platform import Platform

LIMITS = Limits(layers=3, index_entries=4, layer_bytes=1000, config_bytes=100)
DIGEST = str(Digest.of(b"x"))


def descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 7, **more}


CONFIG, LAYER = descriptor(types.OCI_CONFIG), descriptor(types.OCI_LAYER_GZIP)


def manifest(**fields: Any) -> bytes:
    document = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]} | fields
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


def index(*entries: Mapping[str, Any], **fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries} | fields).encode()


def parse(data: bytes, media_type: str = types.OCI_MANIFEST) -> Index | Manifest:
    return parse_document(data, media_type, LIMITS)


# --- what is understood ----------------------------------------------------------------------


@pytest.mark.parametrize("media_type", sorted(types.MANIFESTS))
@pytest.mark.parametrize("says_it", [True, False])
def test_a_manifest(media_type: str, says_it: bool) -> None:
    found = parse(manifest(mediaType=media_type if says_it else ...), media_type)
    assert isinstance(found, Manifest)
    assert found.media_type == media_type
    assert (found.config.digest, found.config.size) == (DIGEST, 7)
    assert [layer.media_type for layer in found.layers] == [types.OCI_LAYER_GZIP]


@pytest.mark.parametrize("media_type", sorted(types.INDEXES))
def test_an_index(media_type: str) -> None:
    described = {"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1"}
    found = parse(
        index(
            descriptor(types.OCI_MANIFEST, platform=described),
            descriptor(types.OCI_MANIFEST, platform=None),
            mediaType=media_type,
        ),
        media_type,
    )
    assert isinstance(found, Index)
    assert [each.platform for each in found.manifests] == [
        Platform("linux", "arm64", "", "1"),
        None,
    ]


@pytest.mark.parametrize("media_type", sorted(types.LAYERS))
def test_every_layer_type_that_is_supported(media_type: str) -> None:
    urls = ["https://a.example/x"] if media_type in types.FOREIGN_LAYERS else None
    found = parse(manifest(layers=[descriptor(media_type, urls=urls)]))
    assert isinstance(found, Manifest)
    assert found.layers[0].urls == tuple(urls or ())


@pytest.mark.parametrize("layers", [[], None, ...])
def test_an_image_without_layers(layers: Any) -> None:
    found = parse(manifest(layers=layers))
    assert isinstance(found, Manifest)
    assert found.layers == ()


def test_an_index_without_entries() -> None:
    assert parse(index(), types.OCI_INDEX) == Index(types.OCI_INDEX, ())


def test_sha512() -> None:
    digest = str(Digest.of(b"x", "sha512"))
    found = parse(manifest(layers=[{**LAYER, "digest": digest}]))
    assert isinstance(found, Manifest)
    assert found.layers[0].digest == digest


def test_annotations_and_what_is_unknown_are_left_alone() -> None:
    extra = {"annotations": {"a": "b"}, "subject": CONFIG, "new": [1, {"x": None}]}
    assert parse(manifest(**extra)) == parse(manifest())


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "data", "says"),
    [
        # CVE-2021-41190: announced as one thing, looks like another.
        (types.OCI_MANIFEST, manifest(mediaType=types.OCI_INDEX), "says mediaType"),
        (types.OCI_MANIFEST, manifest(mediaType=types.DOCKER_MANIFEST), "says mediaType"),
        (types.OCI_MANIFEST, manifest(manifests=[]), "fields of an index"),
        (types.OCI_MANIFEST, index(), "fields of an index"),
        (types.OCI_INDEX, index(config=CONFIG), "fields of a manifest"),
        (types.OCI_INDEX, index(layers=[]), "fields of a manifest"),
        (types.OCI_INDEX, manifest(), "fields of a manifest"),
        (types.OCI_MANIFEST, manifest(fsLayers=[{"blobSum": DIGEST}]), "schema 1"),
        (types.OCI_MANIFEST, manifest(schemaVersion=1), "schemaVersion 1"),
        (types.OCI_MANIFEST, manifest(schemaVersion=...), "schemaVersion 0"),
        (types.OCI_MANIFEST, manifest(config=...), "no config"),
        # Descriptors.
        (types.OCI_MANIFEST, manifest(config={**CONFIG, "size": -1}), "config: size"),
        (types.OCI_MANIFEST, manifest(layers=[LAYER, {**LAYER, "size": -5}]), "layer 1: size"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "size": "7"}]), "malformed"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "size": 7.5}]), "malformed"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "digest": ""}]), "layer 0: digest"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "digest": "sha256:../x"}]), "layer 0"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "digest": DIGEST.upper()}]), "layer 0"),
        (types.OCI_MANIFEST, manifest(layers=["x"]), "malformed"),
        (types.OCI_INDEX, index({**CONFIG, "digest": "sha256:é"}), "manifest 0: digest"),
        # No JSON, or not of the kind that was promised.
        (types.OCI_MANIFEST, b"", "malformed"),
        (types.OCI_MANIFEST, b"null", "malformed"),
        (types.OCI_MANIFEST, b"[]", "malformed"),
        (types.OCI_MANIFEST, manifest() + b"x", "malformed"),
        (types.OCI_MANIFEST, manifest()[:-1], "malformed"),
        (types.OCI_MANIFEST, b'{"mediaType": "\xff"}', "malformed"),
        (types.OCI_MANIFEST, b'{"mediaType": "\\ud800"}', "malformed"),
        (types.OCI_MANIFEST, b'{"x":' * 100_000, "malformed"),
        (types.OCI_MANIFEST, b"[" * 1_000_000, "malformed"),
    ],
)
def test_what_contradicts_itself_or_is_malformed(media_type: str, data: bytes, says: str) -> None:
    with pytest.raises(CorruptContentError, match=says) as error:
        parse(data, media_type)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("media_type", "data", "says"),
    [
        (types.DOCKER_MANIFEST_V1, b"{}", "schema 1"),
        (types.DOCKER_MANIFEST_V1_SIGNED, b"{}", "schema 1"),
        ("application/vnd.cncf.helm.config.v1+json", b"{}", "unsupported type"),
        ("text/html", b"<html>", "unsupported type"),
        ("", b"{}", "unsupported type"),
        (
            types.OCI_MANIFEST,
            manifest(config=descriptor("application/vnd.oci.empty.v1+json")),
            "artifact",
        ),
        (
            types.OCI_MANIFEST,
            manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar+encrypted")]),
            r"layer 0 .*encrypted",
        ),
        (types.OCI_MANIFEST, manifest(layers=[LAYER, descriptor("")]), "layer 1"),
        (
            types.OCI_MANIFEST,
            manifest(layers=[{**LAYER, "digest": "sha384:" + "a" * 96}]),
            "sha384",
        ),
    ],
)
def test_what_is_no_image_is_named(media_type: str, data: bytes, says: str) -> None:
    with pytest.raises(UnsupportedContentError, match=says):
        parse(data, media_type)


@pytest.mark.parametrize(
    ("media_type", "data", "says"),
    [
        (types.OCI_MANIFEST, manifest(layers=[LAYER] * 4), "4 layers, limit 3"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "size": 1001}]), "layer 0 .* limit 1000"),
        (types.OCI_MANIFEST, manifest(layers=[{**LAYER, "size": 10**30}]), "layer 0"),
        (types.OCI_MANIFEST, manifest(config={**CONFIG, "size": 101}), "limit 100"),
        (types.OCI_INDEX, index(*[CONFIG] * 5), "5 manifests, limit 4"),
    ],
)
def test_what_is_too_much(media_type: str, data: bytes, says: str) -> None:
    with pytest.raises(LimitExceededError, match=says):
        parse(data, media_type)


def test_an_index_of_a_hundred_thousand_entries() -> None:
    data = index(*[{"digest": "x", "size": 1}] * 100_000)
    with pytest.raises(LimitExceededError, match="100000 manifests, limit 10000"):
        parse_document(data, types.OCI_INDEX, Limits())


# --- configs ---------------------------------------------------------------------------------


def config(**fields: Any) -> bytes:
    document = {"os": "linux", "architecture": "amd64"} | fields
    return json.dumps(document).encode()


def test_what_the_daemon_acts_on() -> None:
    data = config(
        config={"User": "app:1000", "Labels": {"a": "b"}, "Cmd": ["x"]},
        rootfs={"type": "layers", "diff_ids": [DIGEST, str(Digest.of(b"", "sha512"))]},
        history=[{"created_by": "x"}],
    )
    found = parse_config(data, LIMITS)
    assert (found.user, found.labels) == ("app:1000", {"a": "b"})
    assert found.diff_ids == (DIGEST, Digest.of(b"", "sha512"))
    assert found.platform == Platform("linux", "amd64")
    assert found.document == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        config(config=None, rootfs=None),
        config(config={"User": None, "Labels": None}, rootfs={"diff_ids": None}),
    ],
)
def test_what_is_left_out(data: bytes) -> None:
    found = parse_config(data, LIMITS)
    assert (found.user, found.labels, found.diff_ids) == ("", {}, ())


@pytest.mark.parametrize("name", ["os", "architecture", "variant", "os.version"])
def test_null_means_absent_as_in_go(name: str) -> None:
    assert parse_config(config(**{name: None}), LIMITS).diff_ids == ()


def test_null_means_absent_in_descriptors() -> None:
    absent = {"os": "linux", "architecture": "amd64", "variant": None, "os.version": None}
    found = parse(index({**CONFIG, "platform": absent}, mediaType=None), types.OCI_INDEX)
    assert isinstance(found, Index)
    assert found.manifests[0].platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "malformed"),
        (b"[]", "malformed"),
        (config(rootfs={"diff_ids": [1]}), "malformed"),
        (config(rootfs={"diff_ids": ["sha256:x"]}), "diffID"),
        (config(config={"User": 1000}), "malformed"),
        (config(config={"Labels": ["a"]}), "malformed"),
        (b'{"a":' * 100_000, "malformed"),
    ],
)
def test_configs_that_are_malformed(data: bytes, says: str) -> None:
    with pytest.raises(CorruptContentError, match=says):
        parse_config(data, LIMITS)


def test_too_many_diff_ids() -> None:
    with pytest.raises(LimitExceededError, match="4 diffIDs, limit 3"):
        parse_config(config(rootfs={"diff_ids": [DIGEST] * 4}), LIMITS)


def test_a_user_that_would_fill_every_list_of_images() -> None:
    """It is in each answer of ListImages, which clients take up to 16 MiB of."""
    with pytest.raises(LimitExceededError, match="User"):
        parse_config(config(config={"User": "u" * 1_000_000}), Limits())


# --- fuzz ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.sampled_from([DIGEST, types.OCI_LAYER, types.OCI_CONFIG, types.OCI_MANIFEST, "linux", ""])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "schemaVersion",
                        "mediaType",
                        "config",
                        "layers",
                        "manifests",
                        "digest",
                        "size",
                    ),
                    *(
                        "platform",
                        "urls",
                        "fsLayers",
                        "os",
                        "architecture",
                        "variant",
                        "os.version",
                    ),
                    *("rootfs", "diff_ids", "User", "Labels", "annotations", "x"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def mutated(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """`base` with any value anywhere in its fields, as JSON."""
    return st.dictionaries(st.sampled_from(sorted(base)), JSON, max_size=2).map(
        lambda changes: json.dumps(base | changes).encode()
    )


@settings(max_examples=200, deadline=None)
@given(
    mutated(json.loads(manifest()))
    | mutated(json.loads(index(CONFIG)))
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=50),
    st.sampled_from(sorted(types.DOCUMENTS)) | st.text(max_size=10),
)
def test_any_document_is_understood_or_refused(data: bytes, media_type: str) -> None:
    try:
        found = parse(data, media_type)
    except ImagedError:
        return
    for each in found.manifests if isinstance(found, Index) else (found.config, *found.layers):
        assert Digest.parse(each.digest)
        assert each.size >= 0


@settings(max_examples=200, deadline=None)
@given(
    mutated(json.loads(config(rootfs={"diff_ids": [DIGEST]}, config={"User": "x"})))
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=50)
)
def test_any_config_is_understood_or_refused(data: bytes) -> None:
    try:
        found = parse_config(data, LIMITS)
    except ImagedError:
        return
    assert isinstance(found, Config)
    assert isinstance(found.user, str)
    assert all(isinstance(value, str) for value in found.labels.values())
    assert all(Digest.parse(each) for each in found.diff_ids)
