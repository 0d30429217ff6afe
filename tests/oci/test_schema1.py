"""Docker schema 1 manifests, read and converted."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types as types
from cri_imaged.oci import schema1
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Manifest, parse_config, parse_document
from cri_imaged.oci.schema1 import Unpacked

A, B, EMPTY = (Digest.of(name) for name in (b"a", b"b", b"empty"))
BLOBS = {A: Unpacked(10, Digest.of(b"unpacked")), B: Unpacked(20, B)}


def manifest(*layers: tuple[str, dict[str, Any]], **more: Any) -> bytes:
    """Of layers from the top down."""
    document = {
        "schemaVersion": 1,
        "architecture": "arm64",
        "fsLayers": [{"blobSum": blob} for blob, _ in layers],
        "history": [{"v1Compatibility": json.dumps(image)} for _, image in layers],
        **more,
    }
    return json.dumps(document, indent=3).encode()


TOP = {
    "created": "2020-01-02T00:00:00Z",
    "author": "me",
    "os": "linux",
    "config": {"User": "7", "Cmd": ["/a"], "Odd": {"kept": [1]}},
    "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ENV A=1"]},
    "throwaway": True,
}
WHOLE = manifest(
    (EMPTY, TOP),
    (B, {"created": "2020-01-01T00:00:00Z", "Size": 5, "comment": "c"}),
    (EMPTY, {"Size": 0}),
    (A, {"throwaway": False, "Size": 0}),
)


def signed(payload: bytes, *, length: int | None = None, tail: str = "") -> bytes:
    """As libtrust does: the signatures go before the closing brace, which is the tail."""
    body = payload[:-2]
    protected = {
        "formatLength": len(body) if length is None else length,
        "formatTail": tail or base64.urlsafe_b64encode(b"\n}").decode().rstrip("="),
        "time": "2020-01-01T00:00:00Z",
    }
    told = base64.urlsafe_b64encode(json.dumps(protected).encode()).decode().rstrip("=")
    signatures = json.dumps([{"header": {}, "signature": "x", "protected": told}])
    return body + b',\n   "signatures": ' + signatures.encode() + b"\n}"


def test_a_signed_manifest_is_its_payload() -> None:
    assert schema1.payload(signed(WHOLE)) == WHOLE
    assert schema1.payload(WHOLE) == WHOLE


@pytest.mark.parametrize(
    "document",
    [
        signed(WHOLE, length=10**9),
        signed(WHOLE, length=-1),
        signed(WHOLE, tail="!" * 5),
        WHOLE[:-2] + b',"signatures": [{"protected": "bm8"}]}',
        WHOLE[:-2] + b',"signatures": 1}',
        WHOLE[:-2] + b',"signatures": []}',
        b'"signatures" "fsLayers"',
    ],
)
def test_a_malformed_signature_leaves_the_document_as_it_is(document: bytes) -> None:
    assert schema1.payload(document) == document


def test_layers_come_lowest_first_without_those_that_hold_nothing() -> None:
    assert schema1.layers(WHOLE, Limits()) == (A, B)


def test_what_it_is_converted_to() -> None:
    document, config = schema1.converted(WHOLE, BLOBS, Limits())
    read = parse_document(document, types.DOCKER_MANIFEST, Limits())
    assert isinstance(read, Manifest)
    assert (read.config.digest, read.config.size) == (Digest.of(config), len(config))
    assert [(each.digest, each.size, each.media_type) for each in read.layers] == [
        (A, 10, types.DOCKER_LAYER_GZIP),
        (B, 20, types.DOCKER_LAYER),
    ]
    told = parse_config(config, Limits())
    assert told.diff_ids == (BLOBS[A].diff_id, B)
    assert (str(told.platform), told.user) == ("linux/arm64", "7")
    whole = json.loads(config)
    assert whole["config"] == TOP["config"]
    assert whole["created"] == TOP["created"]
    assert whole["history"] == [
        {},
        {"empty_layer": True},
        {"created": "2020-01-01T00:00:00Z", "comment": "c"},
        {
            "created": TOP["created"],
            "created_by": "/bin/sh -c #(nop) ENV A=1",
            "author": "me",
            "empty_layer": True,
        },
    ]
    assert schema1.converted(WHOLE, BLOBS, Limits()) == (document, config)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (manifest(), "lists 0 layers"),
        (manifest((A, {}), history=[]), "history of 0"),
        (manifest(("sha256:short", {})), "malformed"),
        (manifest((A, {"throwaway": "yes"})), "history is malformed"),
        (manifest((A, {}), history=[{"v1Compatibility": "{"}]), "history is malformed"),
        (b"[]", "malformed"),
    ],
)
def test_what_is_malformed(data: bytes, says: str) -> None:
    with pytest.raises(CorruptContentError, match=says):
        schema1.layers(data, Limits())


def test_as_many_layers_as_the_limit_allows() -> None:
    two = manifest((A, {}), (B, {}))
    assert len(schema1.layers(two, Limits(layers=2))) == 2
    with pytest.raises(LimitExceededError, match="2 layers, limit 1"):
        schema1.layers(two, Limits(layers=1))
