"""What of an image a remote snapshotter has already: such a layer is neither fetched nor unpacked.

A snapshotter is asked from the bottom up, for each layer once the one below is there, as containerd
asks it (core/unpack). Layers of one blob are fetched where one of them is to be applied.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cri_imaged.images.pull.plan import Step
from cri_imaged.images.transfers.rights import Rights
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Claim, Lease, Provenance, Secrets, Snapshotter

_INHERITED = "containerd.io/snapshot/"
_CRI = f"{_INHERITED}cri."
_DIFF_ID = f"{_INHERITED}diff-id"
_LONGEST_LABEL = 4096
"""Bytes of a key and its value together (containerd, pkg/labels)."""


class Claims:
    """Those of one pull."""

    def __init__(
        self,
        snapshotter: Snapshotter,
        rights: Rights | None,
        secrets: Secrets,
        lease: Lease,
        steps: Sequence[Step],
        image: Mapping[str, str],
    ) -> None:
        """`image`: labels that say which one it is. Without `rights` nothing is claimed, nor is a
        layer that one of the `secrets` is for."""
        self._snapshotter = snapshotter
        self._rights = rights
        self._secrets = secrets
        self._lease = lease
        self._steps = steps
        self._image = image
        self._undecided = Counter(step.layer.digest for step in steps)
        loop = asyncio.get_running_loop()
        self._needed = {digest: loop.create_future() for digest in self._undecided}

    async def claim(self, step: Step) -> bool:
        """Whether the snapshotter has it; the layer below is committed.

        Raises:
            RegistryError: this pull may not have the layer.
            ProxyFailedError
        """
        rights = self._rights
        has = rights is not None and await self._ask(step, rights)
        if has and rights is not None:
            await rights.confirm(step.layer)
        digest = step.layer.digest
        self._undecided[digest] -= 1
        if not self._needed[digest].done() and (not has or not self._undecided[digest]):
            self._needed[digest].set_result(not has)
        return has

    async def _ask(self, step: Step, rights: Rights) -> bool:
        claim = Claim(
            chain_id=step.chain_id,
            parent=step.parent,
            labels=layer_labels(self._image, self._steps, step),
            provenance=Provenance(
                blob=step.layer.digest,
                blob_size=step.layer.size,
                diff_id=step.diff_id or step.chain_id,
                size=0,
                entries=0,
                repository=rights.origin.repository,
            ),
        )
        is_secret = step.layer.digest in self._secrets
        if not is_secret and await self._snapshotter.claim(claim, self._lease):
            return True
        # Another pull may have just brought it, from the same blob.
        info = await self._snapshotter.info(step.chain_id)
        here = [info] if info is not None else []
        return bool(rights.proven([step], here, self._secrets)) and (
            await self._snapshotter.hold(step.chain_id, self._lease)
        )

    async def is_needed(self, digest: Digest) -> bool:
        """Whether a blob is to be fetched, once that is known."""
        needed = self._needed.get(digest)
        return needed is None or await asyncio.shield(needed)


def image_labels(reference: str, manifest: Digest) -> dict[str, str]:
    """What tells a snapshotter which image a layer is of (containerd, pkg/snapshotters)."""
    return {f"{_CRI}image-ref": reference, f"{_CRI}manifest-digest": manifest}


def layer_labels(image: Mapping[str, str], steps: Sequence[Step], step: Step) -> dict[str, str]:
    """What tells a snapshotter which layer is meant: those of the image, its own, and of its
    annotations those that are made for snapshotters, but none that would say something else."""
    layer = step.layer
    labels: dict[str, str] = {
        key: value
        for key, value in layer.annotations.items()
        if key.startswith(_INHERITED) and not key.startswith(_CRI)
    }
    labels.update(image)
    labels[f"{_CRI}layer-digest"] = layer.digest
    if step.diff_id is not None:
        labels[_DIFF_ID] = step.diff_id
    key = f"{_CRI}image-layers"
    following = [each.layer for each in steps[steps.index(step) :]]
    labels[key] = _joined(following, _LONGEST_LABEL - len(key))
    return {key: value for key, value in labels.items() if len(key) + len(value) <= _LONGEST_LABEL}


def _joined(layers: Iterable[Descriptor], most: int) -> str:
    joined = ""
    for layer in layers:
        longer = f"{joined},{layer.digest}" if joined else str(layer.digest)
        if len(longer) > most:
            break
        joined = longer
    return joined
