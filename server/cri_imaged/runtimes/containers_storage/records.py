"""What an additional image store says of layers and images: pure values, spelt as its readers do.

Read from containers/storage (layers.go, images.go, store.go) and containers/image
(storage_dest.go). A reader opens the store read-only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from cri_imaged.oci.digest import Digest

Entry = dict[str, Any]
"""One element of layers.json or images.json."""

_LINK_CHARACTERS = 26
_PLAIN_NAME = re.compile(r"[.0-9a-z]+")
_COMPRESSIONS = {"gzip": 2, "zstd": 4}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer on top of its parents."""

    id: str
    parent: str
    """Empty: none."""
    chain_id: Digest
    diff_id: Digest
    size: int
    """Bytes, uncompressed."""
    blob: Digest
    blob_size: int
    media_type: str

    @property
    def link(self) -> str:
        """See `link_of`."""
        return link_of(self.id)

    def entry(self, created: str) -> Entry:
        """As in layers.json."""
        return {
            "id": self.id,
            **({"parent": self.parent} if self.parent else {}),
            "created": created,
            "diff-digest": self.diff_id,
            "diff-size": self.size,
            "compressed-diff-digest": self.blob,
            "compressed-size": self.blob_size,
            "compression": _COMPRESSIONS.get(self.media_type.rpartition("+")[2], 0)
            or (2 if self.media_type.endswith(".tar.gzip") else 0),
        }


def link_of(layer_id: str) -> str:
    """The short name that containers' layers name a layer by. It follows from the ID, so that it
    never changes while one of them may go on using it."""
    digest = hashlib.sha256(layer_id.encode()).digest()
    return base64.b32encode(digest).decode()[:_LINK_CHARACTERS]


def layer_ids(diff_ids: tuple[Digest, ...]) -> list[str]:
    """The ID of each stack of layers, lowest first: as a pull by such a client itself names them,
    so that it finds ours. Above the lowest layer it is not the chainID."""
    ids: list[str] = []
    for diff_id in diff_ids:
        below = f"{ids[-1]}+{diff_id.hex}" if ids else ""
        ids.append(hashlib.sha256(below.encode()).hexdigest() if below else diff_id.hex)
    return ids


def image_entry(
    image_id: Digest,
    manifest: Digest,
    names: list[str],
    top_layer: str,
    created: str,
    items: Mapping[str, bytes],
) -> Entry:
    """As in images.json. `items`: by key, what is kept beside it."""
    return {
        "id": image_id.hex,
        "digest": manifest,
        "names": names,
        **({"layer": top_layer} if top_layer else {}),
        "metadata": "{}",
        "big-data-names": list(items),
        "big-data-sizes": {key: len(data) for key, data in items.items()},
        "big-data-digests": {
            key: f"sha256:{hashlib.sha256(data).hexdigest()}" for key, data in items.items()
        },
        "created": created,
    }


def without_names(image: Entry, names: Set[str]) -> Entry:
    """An image that lost `names` to others. CRI-O fails every list of images at one that has none:
    by its digest it goes on having one."""
    left = [name for name in image["names"] if name not in names]
    if image["names"] and not left:
        repository = image["names"][0].partition("@")[0]
        path, slash, last = repository.rpartition("/")
        left = [f"{path}{slash}{last.partition(':')[0]}@{image['digest']}"]
    return {**image, "names": left}


def file_name(key: str) -> str:
    """The file in which an item is kept."""
    if _PLAIN_NAME.fullmatch(key):
        return key
    return "=" + base64.b64encode(key.encode()).decode()
