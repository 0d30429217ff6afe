"""What images an archive holds: read from its `index.json` (OCI image layout) or, where that is not
there, from `docker save`'s `manifest.json`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from cri_imaged.errors import CorruptContentError, InvalidRequestError, LimitExceededError
from cri_imaged.limits import Limits
from cri_imaged.oci import media_types, reading
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Index, parse_document
from cri_imaged.oci.reference import Reference

CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation of an index's entry: a whole reference."""
REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation of an index's entry: a whole reference, or a tag alone."""

_KIND = "kind"
_COSIGN = "dev.cosignproject.cosign/"
_SIGNATURES = f"{_COSIGN}sigs"
_COSIGNS_IMAGES = (f"{_COSIGN}image", f"{_COSIGN}imageIndex")
_ATTACHED = re.compile(r"sha(?:256|512)-[0-9a-f]{64,128}(?:\.[a-z]+)?")
"""Tags of what is attached to an image: signatures, say, and lists of referrers."""
UNTAGGED = "<none>:<none>"
"""What old dockers and podmans list as the name of an image that has none."""
_LINKS_FOLLOWED = 8
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class File:
    """One of an archive's files, which is a blob of the content store by now."""

    digest: Digest
    size: int
    head: bytes
    """Its first bytes."""


@dataclass(frozen=True, slots=True)
class Archive:
    """All of an archive's files."""

    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> File | None:
        """The file of that name, through links within the archive."""
        name = posixpath.normpath(name)
        for _ in range(_LINKS_FOLLOWED):
            if name in self.files:
                return self.files[name]
            if name not in self.links:
                return None
            name = self.links[name]
        return None

    def need(self, name: str) -> File:
        """As `find`. Raises `CorruptContentError` where there is none."""
        found = self.find(name)
        if found is None:
            raise CorruptContentError(f"archive: {name[:200]!r} is not in it")
        return found


@dataclass(frozen=True, slots=True)
class Packed:
    """One image of an archive."""

    target: Descriptor
    names: tuple[str, ...]
    """Whole references."""
    tags: tuple[str, ...]
    """Tags that it has without a repository."""
    has_digest: bool
    """Whether the archive has its manifest, and not only what one is made of."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What an `index.json` lists."""

    images: list[Packed]
    attached: Mapping[str, Descriptor]
    """What belongs to an image, such as its signatures, by the tag that it has in a registry."""


def named_digest(name: str) -> tuple[str, str]:
    """The algorithm that a file is to be hashed with, and the digest that its name promises:
    empty where it is no blob's."""
    found = _BLOB.fullmatch(name)
    return (found[1], f"{found[1]}:{found[2]}") if found else ("sha256", "")


def read_layout(data: bytes, limits: Limits) -> Layout:
    """The images that an `index.json` lists, each once, with all names that it has there, and what
    is attached to them, also as `cosign save` writes it. What is of a type that is not known is
    none of them (OCI image spec, image-index.md).

    Raises:
        CorruptContentError, UnsupportedContentError, LimitExceededError
    """
    index = parse_document(data, media_types.OCI_INDEX, limits)
    assert isinstance(index, Index)
    found: dict[Digest, Packed] = {}
    attached: dict[str, Descriptor] = {}
    signatures: list[Descriptor] = []
    for entry in index.manifests:
        if entry.media_type not in media_types.DOCUMENTS:
            continue
        said = entry.descriptor()
        whole = said.annotations.get(CONTAINERD_NAME, "")
        short = said.annotations.get(REF_NAME, "")
        tag = short if _TAG.fullmatch(short) else ""
        # What it is called by is the writer's own affair (OCI image spec, image-layout.md).
        name = whole or ("" if tag or not _is_reference(short) else short)
        target = Descriptor(said.media_type, said.digest, said.size)
        kind = said.annotations.get(_KIND, "")
        if kind == _SIGNATURES:
            signatures.append(target)
        last = tag or name.rpartition(":")[2]
        if _ATTACHED.fullmatch(last):
            attached[last] = target
            continue
        if kind.startswith(_COSIGN) and kind not in _COSIGNS_IMAGES:
            continue
        before = found.get(said.digest) or Packed(target, (), (), has_digest=True)
        found[said.digest] = replace(
            before, names=_with(before.names, name), tags=_with(before.tags, tag)
        )
    if len(found) == len(signatures) == 1:  # cosign does not say of which image they are
        (image,) = found
        attached.setdefault(f"{image.algorithm}-{image.hex}.sig", signatures[0])
    return Layout(list(found.values()), attached)


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text)
    except InvalidRequestError:
        return False
    return True


def _with(before: tuple[str, ...], more: str) -> tuple[str, ...]:
    return before if not more or more in before else (*before, more)


class Saved(msgspec.Struct, rename="pascal"):
    """One image in `manifest.json` (`docker save`, since 1.10)."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


def images_of_docker(data: bytes, limits: Limits) -> list[Saved]:
    """What `manifest.json` lists.

    Raises:
        CorruptContentError, LimitExceededError
    """
    reading.refuse_many_values(data, limits)
    found = reading.decode(data, list[Saved], "manifest.json")
    if len(found) > limits.index_entries:
        raise LimitExceededError(
            f"manifest.json lists {len(found)} images, limit {limits.index_entries}"
        )
    return found


def manifest_of(saved: Saved, archive: Archive, limits: Limits) -> bytes:
    """The manifest that `docker save` left out: the same files always give the same one.

    Raises:
        CorruptContentError: a file is not in the archive.
    """
    layers = saved.layers or []
    if len(layers) > limits.layers:
        raise LimitExceededError(
            f"manifest.json: an image of {len(layers)} layers, limit {limits.layers}"
        )
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST,
        "config": _descriptor(archive.need(saved.config), media_types.DOCKER_CONFIG),
        "layers": [_layer(archive.need(name)) for name in layers],
    }
    return msgspec.json.encode(document)


def _reference(name: str) -> Reference:
    try:
        return Reference.parse(name)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"archive: {error}; give the image another name (--name)"
        ) from None


def _layer(file: File) -> Mapping[str, object]:
    if file.head.startswith(b"\x1f\x8b"):
        return _descriptor(file, media_types.DOCKER_LAYER_GZIP)
    if file.head.startswith(b"\x28\xb5\x2f\xfd"):
        return _descriptor(file, media_types.DOCKER_LAYER_ZSTD)
    return _descriptor(file, media_types.DOCKER_LAYER)


def _descriptor(file: File, media_type: str) -> Mapping[str, object]:
    return {"mediaType": media_type, "size": file.size, "digest": str(file.digest)}


def references(packed: list[Packed], wanted: str) -> list[tuple[Packed, tuple[Reference, ...]]]:
    """The names that each image gets: `wanted`, where that is given, else the archive's. Without a
    tag `wanted` takes those that images have without a repository.

    Raises:
        InvalidRequestError: `wanted` cannot name all of them, or a name is malformed.
    """
    if not wanted:
        return [(each, tuple(map(_reference, each.names))) for each in packed]
    base = Reference.parse(wanted)
    bare = base.tag is None and base.digest is None
    tags = [tag for each in packed for tag in each.tags]
    apart = all(each.tags for each in packed) and len(set(tags)) == len(tags)
    if len(packed) > 1 and not (bare and apart):
        raise InvalidRequestError(
            f"the archive holds {len(packed)} images, which cannot all be {wanted!r}: "
            "leave the name away"
        )

    def called(each: Packed) -> tuple[Reference, ...]:
        return tuple(replace(base, tag=tag) for tag in each.tags) if bare and each.tags else (base,)

    return [(each, called(each)) for each in packed]
