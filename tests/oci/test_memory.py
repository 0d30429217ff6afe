"""What a stranger's documents take in memory while they are read, and what is kept of them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

from cri_imaged.budget import MemoryBudget
from cri_imaged.errors import ImagedError, LimitExceededError
from cri_imaged.limits import KIB, MIB, Limits
from cri_imaged.oci import media_types as types
from cri_imaged.oci.documents import parse_config, parse_document
from cri_imaged.oci.reading import config_memory, manifest_memory

LIMITS = Limits()
SIZE = 1 * MIB
DIGEST = "sha256:" + "a" * 64
CONFIG = json.dumps({"mediaType": types.OCI_CONFIG, "digest": DIGEST, "size": 2}).encode()


def repeated(before: bytes, piece: Callable[[int], bytes], after: bytes) -> bytes:
    """Comma-separated pieces between the ends, up to about `SIZE` bytes."""
    length = len(piece(100_000)) + 1
    return before + b",".join(piece(n) for n in range(SIZE // length)) + after


def filled(before: bytes, piece: bytes, after: bytes) -> bytes:
    return before + piece * (SIZE // len(piece)) + after


def always(piece: bytes) -> Callable[[int], bytes]:
    return lambda _: piece


LAYERS = b'{"schemaVersion":2,"config":' + CONFIG + b',"layers":['
ANNOTATED = LAYERS + b'{"digest":"%s","size":1,"annotations":{' % DIGEST.encode()
MANIFESTS = {
    "empty layers": repeated(LAYERS, always(b"{}"), b"]}"),
    "layers of one name": repeated(LAYERS, always(b'{"mediaType":"a"}'), b"]}"),
    "annotations": repeated(ANNOTATED, lambda n: b'"%d":"a"' % n, b"}}]}"),
    "urls": repeated(LAYERS + b'{"urls":[', always(b'"a"'), b"]}]}"),
    "features": repeated(LAYERS + b'{"platform":{"os.features":[', always(b'"a"'), b"]}}]}"),
    "schema 1": repeated(b'{"fsLayers":[', always(b"[]"), b"]}"),
    "nested arrays": filled(b'{"layers":', b"[", b"}"),
    "nested objects": filled(b'{"layers":', b'{"layers":', b"}"),
    "escapes and half a character": filled(b'{"mediaType":"\\ud800', b"\\n", b'"}'),
    "bytes that are no text": filled(b'{"mediaType":"\xf0\x9f\x98\x80', b"\xff", b'"}'),
}
INDEXES = {
    "entries": repeated(b'{"schemaVersion":2,"manifests":[', always(b"{}"), b"]}"),
    "entries of nothing": repeated(b'{"schemaVersion":2,"manifests":[', always(b"0"), b"]}"),
}
CONFIGS = {
    "diffIDs": repeated(b'{"rootfs":{"diff_ids":[', always(b'"a"'), b"]}}"),
    "labels": repeated(b'{"config":{"Labels":{', lambda n: b'"%d":""' % n, b"}}}"),
    "history": repeated(b'{"history":[', always(b"{}"), b"]}"),
    "features": repeated(b'{"os.features":[', always(b'"a"'), b"]}"),
    "nested arrays": filled(b'{"x":', b"[", b"}"),
    "a user of four bytes a character": filled(
        b'{"config":{"User":"\xf0\x9f\x98\x80', b"u", b'"}}'
    ),
    "escapes and half a character": filled(b'{"os":"\\ud800', b"\\n", b'"}'),
    "bytes that are no text": filled(b'{"os":"\xf0\x9f\x98\x80', b"\xff", b'"}'),
}


def taken(read: Callable[[], object]) -> int:
    """Bytes that were held besides the document, at most."""
    tracemalloc.start()
    try:
        with suppress(ImagedError):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_takes_no_more_than_is_drawn_for_it(name: str) -> None:
    data = MANIFESTS[name]
    used = taken(lambda: parse_document(data, types.OCI_MANIFEST, LIMITS))
    assert used + len(data) <= manifest_memory(len(data), LIMITS)


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_takes_no_more_than_is_drawn_for_it(name: str) -> None:
    data = INDEXES[name]
    used = taken(lambda: parse_document(data, types.OCI_INDEX, LIMITS))
    assert used + len(data) <= manifest_memory(len(data), LIMITS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_takes_no_more_than_is_drawn_for_it(name: str) -> None:
    data = CONFIGS[name]
    used = taken(lambda: parse_config(data, LIMITS))
    assert used + len(data) <= config_memory(len(data), LIMITS)


async def test_the_largest_documents_fit_into_the_budget() -> None:
    budget = MemoryBudget(LIMITS.memory_bytes)
    for memory in (
        manifest_memory(LIMITS.manifest_bytes, LIMITS),
        config_memory(LIMITS.config_bytes, LIMITS),
    ):
        async with budget.holding(memory, "it"):
            pass


def test_more_values_than_a_manifest_may_have_are_refused_unread() -> None:
    data = b'{"layers":[' + b"{}," * 450_000 + b"{}]}"
    with pytest.raises(LimitExceededError, match=r"450000 values.*manifest_values"):
        parse_document(data, types.OCI_MANIFEST, LIMITS)


def test_what_is_kept_of_a_manifest_is_limited() -> None:
    noted = {"digest": DIGEST, "size": 1, "annotations": {"a": "ä" * (100 * KIB)}}
    layers = json.dumps([noted] * 12, ensure_ascii=False).encode()
    data = LAYERS[:-1] + layers + b"}"
    with pytest.raises(LimitExceededError, match="manifest_text_bytes"):
        parse_document(data, types.OCI_MANIFEST, LIMITS)


@pytest.mark.parametrize("field", ["urls", "annotations"])
def test_long_lists_of_a_descriptor_become_no_objects(field: str) -> None:
    listed = {"urls": ["a"] * 90_000, "annotations": {str(n): "a" for n in range(90_000)}}[field]
    data = LAYERS + json.dumps({"digest": DIGEST, "size": 1, field: listed}).encode() + b"]}"

    def read() -> None:
        with pytest.raises(LimitExceededError, match=rf"layer 0: {field} of \d+ bytes, limit"):
            parse_document(data, types.OCI_MANIFEST, LIMITS)

    assert taken(read) < len(data)


def test_a_platform_that_every_error_would_tell_is_limited() -> None:
    data = json.dumps({"architecture": "a" * 1000}).encode()
    with pytest.raises(LimitExceededError, match="platform"):
        parse_config(data, LIMITS)
