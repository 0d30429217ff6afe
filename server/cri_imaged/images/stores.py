"""What every use case works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cri_imaged.images.documents import StoredDocuments
from cri_imaged.metadata.database import Database
from cri_imaged.ports import ContentStore, Snapshotter, Trash


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores below one root, which belong together."""

    database: Database
    content: ContentStore
    snapshotters: Mapping[str, Snapshotter]
    """By name, the default one first."""
    trash: Trash
    documents: StoredDocuments
