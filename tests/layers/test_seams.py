"""The layer pipeline is open at both ends: an encoding and a sink from outside, without a change in
the room."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cri_imaged.errors import UnsupportedContentError
from cri_imaged.layers.apply import apply_layer
from cri_imaged.layers.decode.decoder import Decoder, Encoded
from cri_imaged.layers.decode.table import DECODERS, decoder_of, encoded
from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.layers.sinks.table import SINKS, Rights, SinkKind, enter, open_sink
from cri_imaged.layers.tar.entry import Entry
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Skipped, Usage
from tests.support import tarballs as t

LAYER = t.archive(t.directory("d"), t.file("d/hello", b"hello"), t.whiteout("gone"))
TOY = "application/vnd.toy.layer.v1.tar+xor"
KEY = "toy.key"


def xored(source: Iterable[bytes], encoded: Encoded, limits: Limits) -> Iterator[bytes]:
    key = int(encoded.annotations[KEY])
    for chunk in source:
        yield bytes(byte ^ key for byte in chunk)


TOY_DECODERS = {**DECODERS, TOY: Decoder(xored, annotations=frozenset({KEY}))}


class ListTarget(msgspec.Struct, frozen=True, tag="list"):
    """A layer is written down as a list of names and sizes in this file."""

    file: Path


class ListSink:
    def __init__(self, target: ListTarget, descriptor: int) -> None:
        self._name, self._folder = target.file.name, descriptor
        self._names: list[bytes] = []
        self._bytes = 0

    def add(self, entry: Entry, data: memoryview) -> None:
        self._names.append(entry.name)
        self._bytes += len(data)

    def write(self, data: memoryview) -> None:
        self._bytes += len(data)

    def held(self) -> Usage:
        return Usage(self._bytes, len(self._names))

    def skipped(self) -> Skipped:
        return Skipped()

    def finish(self) -> Sealable:
        fd = os.open(self._name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=self._folder)
        os.write(fd, b"\n".join(self._names))
        os.close(fd)
        return Sealable()


def list_sink(target: Any, descriptor: int, rights: Rights, limits: Limits) -> ListSink:
    return ListSink(target, descriptor)


TOY_SINKS = {
    **SINKS,
    ListTarget: SinkKind(lambda target: os.open(target.file.parent, os.O_RDONLY), list_sink),
}


def described(media_type: str) -> Descriptor:
    return Descriptor(media_type, Digest.of(b""), 0, annotations={KEY: "85", "other": "unread"})


def test_an_encoding_and_a_sink_from_outside(tmp_path: Path) -> None:
    said = encoded(described(TOY), TOY_DECODERS)
    assert said.annotations == {KEY: "85"}
    blob = bytes(byte ^ 85 for byte in LAYER)
    stream = decoder_of(TOY, TOY_DECODERS).decode([blob[:100], blob[100:]], said, Limits())
    target = tmp_path / "list"
    descriptor = enter(ListTarget(target), TOY_SINKS)
    rights = Rights(privileged=False, clear=False)
    sink = open_sink(ListTarget(target), descriptor, rights, Limits(), TOY_SINKS)
    result = apply_layer(stream, "sha256", sink, Limits())
    os.close(descriptor)
    assert result.diff_id == "sha256:" + hashlib.sha256(LAYER).hexdigest()
    assert target.read_bytes().splitlines() == [b"d/", b"d/hello", b".wh.gone"]
    assert sink.held() == Usage(5, 3)


def test_a_type_without_a_decoder_is_named() -> None:
    with pytest.raises(UnsupportedContentError, match=r"vnd\.toy"):
        encoded(described(TOY))


def test_no_annotation_is_told_to_decoders_that_read_none() -> None:
    assert encoded(described(media_types.OCI_LAYER_GZIP)).annotations == {}
