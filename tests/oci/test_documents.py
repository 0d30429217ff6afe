"""Manifests, indexes and configs from strangers (hostile-images: the rows on documents)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
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
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import (
    Config,
    Index,
    Manifest,
    built,
    config_of,
    parse_config,
    parse_document,
    type_of,
)
from cri_imaged.oci.platform import Platform

OCI = types.OCI_INDEX
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


@pytest.mark.parametrize(
    ("announced", "says"),
    [
        (types.OCI_MANIFEST, types.DOCKER_MANIFEST),
        (types.DOCKER_MANIFEST, types.OCI_MANIFEST),
    ],
)
def test_a_manifest_labelled_as_its_sibling(announced: str, says: str) -> None:
    assert parse(manifest(mediaType=says), announced) == parse(manifest(), announced)


def test_an_index_labelled_as_its_sibling() -> None:
    for announced, says in [sorted(types.INDEXES), sorted(types.INDEXES, reverse=True)]:
        assert isinstance(parse(index(mediaType=says), announced), Index)


def test_annotations_are_kept_with_their_descriptor() -> None:
    noted = {**LAYER, "annotations": {"a": "b", "c": None}, "artifactType": "x/y"}
    found = parse(manifest(layers=[noted]))
    assert isinstance(found, Manifest)
    assert found.layers[0].annotations == {"a": "b", "c": ""}
    assert found.layers[0].artifact_type == "x/y"


def test_what_is_listed_besides_layers() -> None:
    module = descriptor("application/wasm")
    found = parse(manifest(layers=[module, LAYER], artifactType="a/b"))
    assert isinstance(found, Manifest)
    assert [each.media_type for each in found.layers] == [types.OCI_LAYER_GZIP]
    assert [each.media_type for each in found.blobs] == ["application/wasm"]
    assert found.artifact_type == "a/b"


@pytest.mark.parametrize(
    "odd",
    [
        {"digest": "sha384:" + "a" * 96},
        {"digest": "sha256:é"},
        {"digest": None},
        {"size": None},
        {"size": -1},
        {"size": "7"},
        {"size": 7.5},
        {"annotations": {"a": 1}},
        {"annotations": {"a": "b" * (1 << 20)}},
        {"mediaType": 1},
        {"platform": "linux/amd64"},
        {"urls": {}},
    ],
)
def test_an_odd_entry_of_an_index_fails_only_who_asks_for_it(odd: dict[str, Any]) -> None:
    good = descriptor(types.OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"})
    found = parse(index({**good, **odd}, good), types.OCI_INDEX)
    assert isinstance(found, Index)
    assert found.manifests[1].descriptor().digest == DIGEST
    with pytest.raises(ImagedError, match="index: manifest 0"):
        found.manifests[0].descriptor()


def test_an_entry_of_an_index_that_is_nothing_at_all() -> None:
    found = parse(b'{"schemaVersion": 2, "manifests": [null, 1, [], "x"]}', types.OCI_INDEX)
    assert isinstance(found, Index)
    for entry in found.manifests:
        with pytest.raises(CorruptContentError, match="index: manifest"):
            entry.descriptor()


def test_what_an_entry_demands() -> None:
    described = {"os": "linux", "architecture": "amd64", "os.features": ["sse4", None]}
    entry = descriptor(types.OCI_MANIFEST, platform=described, artifactType="a/b")
    found = parse(index(entry), types.OCI_INDEX)
    assert isinstance(found, Index)
    assert found.manifests[0].demands == ("sse4", "")
    assert found.manifests[0].artifact_type == "a/b"


def test_a_platform_without_an_os_is_of_this_node_as_in_containerd() -> None:
    found = parse(index(descriptor(types.OCI_MANIFEST, platform={"architecture": "amd64"})), OCI)
    assert isinstance(found, Index)
    assert found.manifests[0].platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("field", "of_index"),
    [
        *(
            (name, False)
            for name in ("mediaType", "artifactType", "manifests", "fsLayers", "schemaVersion")
        ),
        *((name, True) for name in ("mediaType", "config", "layers", "fsLayers", "schemaVersion")),
    ],
)
def test_null_means_absent_in_the_envelope(field: str, of_index: bool) -> None:
    if of_index:
        assert parse(index(**{field: None}), OCI) == Index(OCI, ())
    else:
        assert parse(manifest(**{field: None})) == parse(manifest())


@pytest.mark.parametrize("field", ["urls", "platform", "annotations", "artifactType"])
def test_null_means_absent_in_a_layers_descriptor(field: str) -> None:
    assert parse(manifest(layers=[{**LAYER, field: None}])) == parse(manifest())


def test_the_type_of_a_stored_document_that_names_a_strange_one() -> None:
    assert type_of(manifest(mediaType="text/plain")) == types.OCI_MANIFEST
    assert type_of(index(mediaType="")) == types.OCI_INDEX


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "data", "says"),
    [
        # CVE-2021-41190: announced as one thing, looks like another.
        (types.OCI_MANIFEST, manifest(mediaType=types.OCI_INDEX), "says mediaType"),
        (types.DOCKER_MANIFEST, manifest(mediaType=types.DOCKER_INDEX), "says mediaType"),
        (types.DOCKER_INDEX, index(mediaType=types.OCI_MANIFEST), "says mediaType"),
        (types.OCI_INDEX, index(mediaType="text/plain"), "says mediaType"),
        (types.OCI_MANIFEST, manifest(manifests=[]), "fields of an index"),
        (types.OCI_MANIFEST, index(), "fields of an index"),
        (types.OCI_INDEX, index(config=CONFIG), "fields of a manifest"),
        (types.OCI_INDEX, index(layers=[]), "fields of a manifest"),
        (types.OCI_INDEX, manifest(), "fields of a manifest"),
        (types.OCI_MANIFEST, manifest(fsLayers=[{"blobSum": DIGEST}]), "schema 1"),
        (types.OCI_MANIFEST, manifest(schemaVersion=1), "schemaVersion 1"),
        (types.OCI_MANIFEST, manifest(schemaVersion=0), "schemaVersion 0"),
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
        # No JSON, or not of the kind that was promised.
        (types.OCI_MANIFEST, b"", "malformed"),
        (types.OCI_MANIFEST, b"null", "malformed"),
        (types.OCI_MANIFEST, b"[]", "malformed"),
        (types.OCI_MANIFEST, manifest() + b"x", "malformed"),
        (types.OCI_MANIFEST, manifest()[:-1], "malformed"),
        (types.OCI_MANIFEST, b'{"mediaType": "\xff"}', "says mediaType \ufffd"),
        (types.OCI_MANIFEST, b'{"mediaType": "\\ud800"}', "says mediaType \ufffd"),
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
        config={"User": "app:1000", "Labels": {"a": 1}, "Cmd": ["x"]},
        rootfs={"type": "layers", "diff_ids": [DIGEST, str(Digest.of(b"", "sha512"))]},
        history=[{"created_by": "x"}],
    )
    found = parse_config(data, LIMITS)
    assert found.user == "app:1000"
    assert found.diff_ids == (DIGEST, Digest.of(b"", "sha512"))
    assert found.platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        ("1970-01-01T01:00:00+00:00", 3600.0),
        ("0001-01-01T00:00:00+14:00", 0.0),
        ("2300-01-01T00:00:00Z", 0.0),
        ("9999-12-31T23:59:59Z", 0.0),
        ("2020-01-01T00:00:00", 0.0),
        ("yesterday", 0.0),
        (7, 0.0),
        (None, 0.0),
    ],
)
def test_when_an_image_was_built_fits_into_what_clients_are_told(
    created: object, seconds: float
) -> None:
    assert built(json.dumps({"created": created}).encode()) == seconds
    assert seconds * 1e9 < 2**63


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
    assert (found.user, found.diff_ids) == ("", ())


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
        (b'{"a":' * 100_000, "malformed"),
    ],
)
def test_configs_that_are_malformed(data: bytes, says: str) -> None:
    with pytest.raises(CorruptContentError, match=says):
        parse_config(data, LIMITS)


@pytest.mark.parametrize("media_type", sorted(types.CONFIGS))
def test_an_image_by_its_configs_type(media_type: str) -> None:
    found = parse(manifest(config=descriptor(media_type), layers=[]))
    assert isinstance(found, Manifest)
    assert config_of(found, b"{}", LIMITS).diff_ids == ()


@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/json", "", None])
def test_an_image_of_docker_1_10_by_a_diff_id_for_each_layer(media_type: str | None) -> None:
    found = parse(manifest(config={**CONFIG, "mediaType": media_type}), types.DOCKER_MANIFEST)
    assert isinstance(found, Manifest)
    assert config_of(found, config(rootfs={"diff_ids": [DIGEST]}), LIMITS).diff_ids == (DIGEST,)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"",
        b"no JSON",
        config(),
        config(rootfs={"diff_ids": []}),
        config(rootfs={"diff_ids": [DIGEST, DIGEST]}),
        config(rootfs={"diff_ids": ["sha256:x"]}),
    ],
)
@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/vnd.a.b+json", ""])
def test_all_else_is_an_artifact(data: bytes, media_type: str) -> None:
    found = parse(manifest(config=descriptor(media_type)))
    assert isinstance(found, Manifest)
    made = config_of(found, data, LIMITS)
    assert (made.is_artifact, made.diff_ids) == (True, ())


def test_too_many_annotations() -> None:
    noted = {**LAYER, "annotations": {str(n): "x" * 1000 for n in range(300)}}
    with pytest.raises(LimitExceededError, match=r"layer 0: annotations .*annotation_bytes"):
        parse_document(manifest(layers=[noted]), types.OCI_MANIFEST, Limits())


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b'"Jos\xe9"', "Jos\ufffd"),
        (b'"\xc3\xa9"', "é"),
        (b'"cut \\ud83d"', "cut \ufffd"),
        (b'"\\ude00\\ud83d"', "\ufffd\ufffd"),
        (b'"\\ud83d\\ud83d\\ude00"', "\ufffd\U0001f600"),
        (b'"\\\\ud83d \\ud83d"', "\\ud83d \ufffd"),
        (b'"\xff \\uD83D\\uDE00 \\n"', "\ufffd \U0001f600 \n"),
    ],
)
def test_text_that_is_none_is_replaced_as_go_does(raw: bytes, read: str) -> None:
    found = parse_config(b'{"author": %s, "config": {"User": %s}}' % (raw, raw), LIMITS)
    assert found.user == read


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
    if isinstance(found, Manifest):
        check_descriptors(found.config, *found.layers, *found.blobs)
        return
    for entry in found.manifests:
        with suppress(ImagedError):
            check_descriptors(entry.descriptor())


def check_descriptors(*found: Descriptor) -> None:
    for each in found:
        assert Digest.parse(each.digest)
        assert each.size >= 0
        assert all(isinstance(value, str) for value in each.annotations.values())


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
    assert all(Digest.parse(each) for each in found.diff_ids)
