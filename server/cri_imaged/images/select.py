"""From what a reference resolved to down to one platform's manifest and config."""

from __future__ import annotations

from dataclasses import dataclass

from cri_imaged.errors import LimitExceededError, NotFoundError
from cri_imaged.images.airport import Airport
from cri_imaged.limits import Limits
from cri_imaged.oci import platform as platforms
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Index, Manifest, parse_config, parse_document
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import Lease, Resolved


@dataclass(frozen=True, slots=True)
class Selected:
    """One platform's image behind a reference. Its documents are in the content store."""

    target: Descriptor
    descriptor: Descriptor
    """Of the manifest."""
    manifest: Manifest
    config: Config
    documents: tuple[Digest, ...]
    """Indexes, manifest and config."""


async def select(
    resolved: Resolved, wanted: Platform, airport: Airport, lease: Lease, limits: Limits
) -> Selected:
    """Walk from `resolved` to the best manifest for `wanted`, keeping each document.

    Raises:
        NotFoundError: no manifest for the platform; the message lists those there are.
        CorruptContentError, UnsupportedContentError, LimitExceededError, RegistryError
    """
    descriptor, data, fetcher = resolved.descriptor, resolved.document, resolved.fetcher
    await airport.content.put(descriptor.digest, data, lease)
    documents: list[Digest] = []
    for _ in range(limits.index_depth + 1):
        documents.append(descriptor.digest)
        document = parse_document(data, descriptor.media_type, limits)
        if isinstance(document, Manifest):
            break
        descriptor = _choose(document, wanted)
        data = await airport.document(descriptor, fetcher, lease, limits.manifest_bytes)
    else:
        raise LimitExceededError(f"indexes are nested more than {limits.index_depth} deep")
    config_data = await airport.document(document.config, fetcher, lease, limits.config_bytes)
    config = parse_config(config_data, limits)
    _check_platform(config, wanted)
    return Selected(
        target=resolved.descriptor,
        descriptor=descriptor,
        manifest=document,
        config=config,
        documents=(*documents, document.config.digest),
    )


def _choose(index: Index, wanted: Platform) -> Descriptor:
    offered = [entry.platform for entry in index.manifests]
    position = platforms.choose(wanted, offered)
    if position is None:
        known = sorted({str(platform) for platform in offered if platform is not None})
        raise NotFoundError(
            f"no manifest for platform {wanted}; the image is there for "
            f"{', '.join(known[:20]) or 'no platform'}"
        )
    return index.manifests[position]


def _check_platform(config: Config, wanted: Platform) -> None:
    """A manifest outside an index tells its platform only in its config. One that tells none runs
    anywhere, as containerd has it."""
    told = config.platform
    if told.os and told.architecture and platforms.choose(wanted, [told]) is None:
        raise NotFoundError(f"no manifest for platform {wanted}; the image is for {told} alone")
