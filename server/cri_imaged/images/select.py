"""From what a reference resolved to down to one platform's manifest and config."""

from __future__ import annotations

from dataclasses import dataclass

from cri_imaged.errors import (
    CorruptContentError,
    LimitExceededError,
    NotFoundError,
    RegistryError,
)
from cri_imaged.limits import Limits
from cri_imaged.oci import platform as platforms
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.documents import Config, Index, Manifest, parse_config, parse_document
from cri_imaged.oci.platform import Platform
from cri_imaged.ports import ContentStore, Fetcher, Lease, Resolved


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
    resolved: Resolved, wanted: Platform, content: ContentStore, lease: Lease, limits: Limits
) -> Selected:
    """Walk from `resolved` to the best manifest for `wanted`, keeping each document.

    Raises:
        NotFoundError: no manifest for the platform; the message lists those there are.
        CorruptContentError, UnsupportedContentError, LimitExceededError, RegistryError
    """
    descriptor, data, tries = resolved.descriptor, resolved.document, limits.tries_per_request
    documents: list[Digest] = []
    for _ in range(limits.index_depth + 1):
        await content.put(descriptor.digest, data, lease)
        documents.append(descriptor.digest)
        document = parse_document(data, descriptor.media_type, limits)
        if isinstance(document, Manifest):
            break
        descriptor = _choose(document, wanted)
        data = await _document(
            descriptor, resolved.fetcher, content, lease, limits.manifest_bytes, tries
        )
    else:
        raise LimitExceededError(f"indexes are nested more than {limits.index_depth} deep")
    config_data = await _document(
        document.config, resolved.fetcher, content, lease, limits.config_bytes, tries
    )
    await content.put(document.config.digest, config_data, lease)
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


async def _document(
    descriptor: Descriptor,
    fetcher: Fetcher,
    content: ContentStore,
    lease: Lease,
    limit: int,
    tries: int,
) -> bytes:
    """A small document: from the content store where it is intact there, else from the registry."""
    if descriptor.size > limit:
        raise LimitExceededError(
            f"document {descriptor.digest} has {descriptor.size} bytes, limit {limit}"
        )
    held = await content.hold(descriptor.digest, lease)
    if held is not None and (held.state, held.size) == ("present", descriptor.size):
        try:
            return await content.read(descriptor.digest, limit)
        except (CorruptContentError, NotFoundError):
            pass  # damaged on this disk: the registry's copy replaces it
    return await _fetch(descriptor, fetcher, tries)


async def _fetch(descriptor: Descriptor, fetcher: Fetcher, tries: int) -> bytes:
    """A small document from the first host that delivers what its descriptor names."""
    mismatch: CorruptContentError | None = None
    for _ in range(tries):
        received = bytearray()
        try:
            async with fetcher.fetch(descriptor) as stream:
                async for chunk in stream:
                    received += chunk
        except CorruptContentError as error:
            mismatch = mismatch or error
            continue
        except RegistryError:
            if mismatch is None:
                raise
            break
        data = bytes(received)
        found = Digest.of(data, descriptor.digest.algorithm)
        if found == descriptor.digest and len(data) == descriptor.size:
            return data
        stream.discredit()
        mismatch = CorruptContentError(
            f"document {descriptor.digest} of {descriptor.size} bytes: "
            f"the registry sent {len(data)} bytes with the digest {found}"
        )
    assert mismatch is not None
    raise mismatch
