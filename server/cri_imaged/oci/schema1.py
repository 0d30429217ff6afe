"""Docker schema 1 manifests ("Image Manifest Version 2, Schema 1"), and the schema 2 image that
each is converted to. Pure.

A manifest lists its layers from the top down, each with what the image was like at that layer. It
tells neither sizes nor diffIDs: who converts it has to unpack the layers first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.oci import described, lenient_json, media_types, reading
from cri_imaged.oci.digest import Digest

_NULL = msgspec.Raw(b"null")


class _Signatures(msgspec.Struct):
    signatures: list[msgspec.Raw] | None = None


class _Signature(msgspec.Struct):
    protected: str = ""


class _Protected(msgspec.Struct, rename="camel"):
    format_length: int
    format_tail: str


class _FsLayer(msgspec.Struct, rename="camel"):
    blob_sum: str = ""


class _History(msgspec.Struct, rename="camel"):
    v1_compatibility: str = ""


class _Manifest(msgspec.Struct, rename="camel"):
    architecture: str | None = None
    fs_layers: list[_FsLayer] | None = None
    history: list[_History] | None = None


class _Command(msgspec.Struct):
    Cmd: list[str] | None = None


class _V1(msgspec.Struct):
    """An image at one layer."""

    created: str | None = None
    author: str | None = None
    comment: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os: str | None = None
    config: msgspec.Raw = _NULL
    container_config: _Command | None = None
    throwaway: bool | None = None
    Size: int | None = None
    """Told before there was `throwaway`."""

    @property
    def is_empty(self) -> bool:
        """Whether the layer is known to hold nothing."""
        return self.throwaway if self.throwaway is not None else self.Size == 0


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a layer's blob turned out to be."""

    size: int
    """Of the blob, in bytes."""
    diff_id: Digest


def payload(document: bytes) -> bytes:
    """What the signatures in a manifest are about (a JWS in libtrust's form); its digest is the
    manifest's. `document` itself where nothing is signed, or the signature is malformed: then it is
    not what anybody asked for by its digest."""
    if b'"signatures"' not in document or b'"fsLayers"' not in document:
        return document
    try:
        signatures = lenient_json.decode(document, _Signatures).signatures or [_NULL]
        protected = lenient_json.decode(signatures[0], _Signature).protected
        told = lenient_json.decode(_base64url(protected), _Protected)
        tail = _base64url(told.format_tail)
    except ValueError:
        return document
    if not 0 <= told.format_length <= len(document):
        return document
    return document[: told.format_length] + tail


def layers(data: bytes, limits: Limits) -> tuple[Digest, ...]:
    """The blobs of the layers that hold something, lowest first.

    Raises:
        CorruptContentError: malformed.
        LimitExceededError: more than `limits` allows.
    """
    return tuple(blob for blob, image in _read(data, limits)[1] if not image.is_empty)


def converted(data: bytes, blobs: Mapping[Digest, Unpacked], limits: Limits) -> tuple[bytes, bytes]:
    """The schema 2 manifest and the config that the manifest in `data` is converted to, always the
    same. `blobs` has what became of all that `layers` gave. Raises as `layers`."""
    manifest, every = _read(data, limits)
    listed = [blob for blob, image in every if not image.is_empty]
    _, top = every[-1]
    config = _encoded(
        {
            "created": top.created,
            "author": top.author,
            "architecture": top.architecture or manifest.architecture,
            "variant": top.variant,
            "os": top.os or "linux",
            "config": top.config if top.config != _NULL else None,
            "rootfs": {"type": "layers", "diff_ids": [blobs[blob].diff_id for blob in listed]},
            "history": [_history(image) for _, image in every],
        }
    )
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST,
        "config": _descriptor(media_types.DOCKER_CONFIG, Digest.of(config), len(config)),
        "layers": [
            _descriptor(_layer_type(blob, blobs[blob]), blob, blobs[blob].size) for blob in listed
        ],
    }
    return _encoded(document), config


def _read(data: bytes, limits: Limits) -> tuple[_Manifest, list[tuple[Digest, _V1]]]:
    """The manifest, and each layer's blob and image, lowest first."""
    reading.refuse_many_values(data, limits)
    manifest = reading.decode(data, _Manifest, "schema 1 manifest")
    listed, history = manifest.fs_layers or [], manifest.history or []
    if len(listed) > limits.layers:
        raise LimitExceededError(
            f"schema 1 manifest lists {len(listed)} layers, limit {limits.layers}"
        )
    if not listed or len(listed) != len(history):
        raise CorruptContentError(
            f"schema 1 manifest lists {len(listed)} layers and a history of {len(history)}"
        )
    every = [
        (
            described.digest(layer.blob_sum, "schema 1 manifest: layer"),
            reading.decode(image.v1_compatibility.encode(), _V1, "schema 1 manifest: history"),
        )
        for layer, image in zip(listed, history, strict=True)
    ]
    return manifest, every[::-1]


def _history(image: _V1) -> dict[str, Any]:
    command = (image.container_config or _Command()).Cmd
    told = {
        "created": image.created,
        "created_by": " ".join(command or ()) or None,
        "author": image.author or None,
        "comment": image.comment or None,
        "empty_layer": image.is_empty or None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _layer_type(blob: Digest, unpacked: Unpacked) -> str:
    plain = blob == unpacked.diff_id
    return media_types.DOCKER_LAYER if plain else media_types.DOCKER_LAYER_GZIP


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "size": size, "digest": digest}


def _encoded(document: Mapping[str, Any]) -> bytes:
    told = {key: value for key, value in document.items() if value is not None}
    return msgspec.json.encode(told, enc_hook=str)


def _base64url(text: str) -> bytes:
    """Of JOSE, which leaves the padding out. Raises `ValueError`."""
    padded = text.encode() + b"=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)
