"""The Protocols between the rooms, and the values that cross them.

`registry`, `content`, `snapshots` and `layers` never import one another; `images` uses them
through these interfaces and `daemon.py` wires them.
"""

from cri_imaged.ports.content import (
    Available,
    BlobInfo,
    Complete,
    ContentStore,
    Failed,
    Ingest,
    LayerSource,
    Restart,
    Watermark,
)
from cri_imaged.ports.layers import Applied, Applier, DirectoryExtraction, Extraction, Skipped
from cri_imaged.ports.registry import ByteStream, Fetcher, Known, Resolved, Resolver
from cri_imaged.ports.snapshots import AlreadyPresent, Mount, SnapshotInfo, Snapshotter, View
from cri_imaged.ports.trash import Trash
from cri_imaged.ports.values import Credentials, Lease, Usage

__all__ = [
    "AlreadyPresent",
    "Applied",
    "Applier",
    "Available",
    "BlobInfo",
    "ByteStream",
    "Complete",
    "ContentStore",
    "Credentials",
    "DirectoryExtraction",
    "Extraction",
    "Failed",
    "Fetcher",
    "Ingest",
    "Known",
    "LayerSource",
    "Lease",
    "Mount",
    "Resolved",
    "Resolver",
    "Restart",
    "Skipped",
    "SnapshotInfo",
    "Snapshotter",
    "Trash",
    "Usage",
    "View",
    "Watermark",
]
