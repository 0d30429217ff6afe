"""What a pull has to do, decided from values alone."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from cri_imaged.errors import CorruptContentError, UnsupportedContentError
from cri_imaged.oci.chain import chain_ids
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Manifest
from cri_imaged.ports import BlobInfo


@dataclass(frozen=True, slots=True)
class Step:
    """One layer to be unpacked."""

    layer: Descriptor
    diff_id: Digest | None
    """None where nothing says it, as for an artifact: any will do."""
    parent: Digest | None
    chain_id: Digest

    @property
    def algorithm(self) -> str:
        """The diffID's."""
        return (self.diff_id or self.chain_id).algorithm


@dataclass(frozen=True, slots=True)
class Plan:
    """What is missing of an image."""

    fetch: tuple[Descriptor, ...]
    """Blobs to be fetched, each once, largest first."""
    steps: tuple[Step, ...]
    """Layers above the highest committed snapshot, from the bottom up."""
    unneeded: tuple[Descriptor, ...]
    """Blobs that are not here and need not come, as their snapshots are."""
    chain_id: Digest | None
    """Of the whole image; None where it has no layers."""

    @property
    def missing_bytes(self) -> int:
        """Compressed bytes to be fetched at the most."""
        return sum(layer.size for layer in self.fetch)


def image_chain(manifest: Manifest, config: Config) -> list[Digest]:
    """The chainIDs of an image's layers, lowest first.

    Raises:
        UnsupportedContentError: a layer of a type that is not known.
        CorruptContentError: manifest and config differ in the number of layers.
    """
    if manifest.blobs and len(config.diff_ids) == len(manifest.layers) + len(manifest.blobs):
        raise UnsupportedContentError(
            f"manifest: a layer has the unsupported type {manifest.blobs[0].media_type[:200]!r}"
        )
    if len(manifest.layers) != len(config.diff_ids):
        raise CorruptContentError(
            f"manifest lists {len(manifest.layers)} layers, "
            f"its config {len(config.diff_ids)} diffIDs"
        )
    return chain_ids(config.diff_ids)


def steps_of(manifest: Manifest, config: Config) -> tuple[Step, ...]:
    """How to unpack all of an image, from the bottom up.

    Raises:
        UnsupportedContentError, CorruptContentError: as `image_chain`.
    """
    chain = image_chain(manifest, config)
    told = [None] * len(chain) if config.is_artifact else config.diff_ids
    layers = zip(manifest.layers, told, (None, *chain), chain, strict=False)
    return tuple(Step(*each) for each in layers)


def make_plan(
    manifest: Manifest,
    config: Config,
    committed: Set[Digest],
    blobs: Mapping[Digest, BlobInfo | None],
) -> Plan:
    """Plan the rest of a pull.

    `committed` are the chainIDs that the snapshotter has; `blobs` what the content store knows of
    each layer's blob. A blob under a committed snapshot comes only where it was lost: a damaged
    store is made whole again, a discarded blob stays away.

    Raises:
        CorruptContentError: the manifest contradicts its config or a blob that is here.
    """
    every = steps_of(manifest, config)
    base = max((n + 1 for n, step in enumerate(every) if step.chain_id in committed), default=0)
    steps = every[base:]
    needed = {step.layer.digest for step in steps} | {blob.digest for blob in manifest.blobs}
    fetch: dict[Digest, Descriptor] = {}
    unneeded: dict[Digest, Descriptor] = {}
    for layer in (*manifest.layers, *manifest.blobs):
        info = blobs.get(layer.digest)
        state = info.state if info is not None else None
        if info is not None and state == "present" and info.size != layer.size:
            raise CorruptContentError(
                f"manifest says {layer.size} bytes of layer {layer.digest}, which has {info.size}"
            )
        if state == "lost" or (layer.digest in needed and state != "present"):
            fetch[layer.digest] = layer
        elif state is None:
            unneeded[layer.digest] = layer
    return Plan(
        fetch=tuple(sorted(fetch.values(), key=lambda layer: layer.size, reverse=True)),
        steps=steps,
        unneeded=tuple(unneeded.values()),
        chain_id=every[-1].chain_id if every else None,
    )


def compressed_size(target: Descriptor, manifest: Descriptor, document: Manifest) -> int:
    """An image's size as CRI reports it, in bytes: index (if any), manifest, config and this
    platform's layers, each blob as often as it is listed (as containerd counts)."""
    index = target.size if target.digest != manifest.digest else 0
    listed = (*document.layers, *document.blobs)
    return index + manifest.size + document.config.size + sum(each.size for each in listed)
