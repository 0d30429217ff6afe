"""A whole daemon in this process but its sockets, and a registry that fails as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from cri_imaged.config.options import Config, ImageOptions, ProxySnapshotter
from cri_imaged.config.values import ByteSize, Directory
from cri_imaged.daemon import UseCases, use_cases
from cri_imaged.images.pull.puller import Pulled
from cri_imaged.images.store import Image as Shown
from cri_imaged.limits import Limits
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Credentials
from cri_imaged.registry.options import RegistryOptions
from tests.support import images
from tests.support.images import directory, file
from tests.support.leaks import emitted
from tests.support.registry import FaultRegistry, Image

REPOSITORY = "library/demo"


class Bench:
    """A running daemon's use cases, its registry, and what tests ask of both."""

    def __init__(self, parts: UseCases, registry: FaultRegistry, root: Path) -> None:
        self.parts = parts
        self.registry = registry
        self.root = root

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        root: Path,
        registry: FaultRegistry,
        *,
        limits: Limits | None = None,
        registry_options: RegistryOptions | None = None,
        proxies: Mapping[str, ProxySnapshotter] | None = None,
        **options: Any,
    ) -> AsyncIterator[Bench]:
        config = Config(
            root=Directory(root),
            proxy_snapshotters=dict(proxies or {}),
            image=ImageOptions(
                **{
                    "snapshotter": "native",
                    "disk_reserve": ByteSize(0),
                    "limits": limits or Limits(retry_seconds=5.0),
                    "registry": registry_options or RegistryOptions(config_path=""),
                    **options,
                }
            ),
        )
        async with use_cases(config) as parts:
            yield cls(parts, registry, root)
            emitted("metrics", generate_latest(parts.metrics.registry).decode())

    # --- pulling -----------------------------------------------------------------------------

    def name(self, tag: str = "latest", repository: str = REPOSITORY) -> str:
        """A tag, or `@sha256:…`, at the registry."""
        separator = "" if tag.startswith("@") else ":"
        return f"{self.registry.authority}/{repository}{separator}{tag}"

    async def pull(
        self,
        tag: str = "latest",
        credentials: Credentials | None = None,
        repository: str = REPOSITORY,
        handler: str = "",
    ) -> Pulled:
        return await self.parts.puller.pull(self.name(tag, repository), handler, credentials)

    def start(self, tag: str = "latest", credentials: Credentials | None = None) -> Pulling:
        """Pull in the background."""
        return asyncio.create_task(self.pull(tag, credentials))

    def start_in(self, repository: str) -> Pulling:
        """Pull another repository's image in the background."""
        return asyncio.create_task(self.pull(repository=repository))

    async def pull_and_remove(self, registry: FaultRegistry) -> None:
        """Warm up: connections, workers, code."""
        serve(registry, image_of(layer(0)), "warm")
        pulled = await self.pull("warm")
        await self.parts.remover.remove(pulled.image.id)

    # --- what is there -----------------------------------------------------------------------

    def shown(self) -> set[str]:
        """Every name that clients are shown."""
        return {
            name
            for image in self.parts.store.all()
            for name in (*image.repo_tags, *image.repo_digests)
        }

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the metadata, as another process sees them."""
        connection = sqlite3.connect(f"file:{self.root / 'metadata.db'}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def leases(self) -> list[str]:
        """The kinds of all leases."""
        return sorted(row[0] for row in self.rows("SELECT kind FROM leases"))

    def partial(self) -> dict[str, int]:
        """Sizes of partial blobs by digest."""
        folder = self.root / "content" / "ingest"
        return {
            ":".join(path.name.split("-")[:2]): path.stat().st_size for path in folder.iterdir()
        }

    async def tree(self, name: str) -> dict[str, bytes | None]:
        """What an image's read-only view holds: files' bytes, None for directories."""
        _, mounts = await self.parts.views.create(name, "", "look", writable=False)
        (mount,) = mounts
        found = files_of(Path(mount.source))
        await self.parts.views.release("look")
        return found

    async def warnings(self, image: Shown) -> tuple[str, ...]:
        """What its user may miss, as a client that asks in detail is told."""
        async with self.parts.inspector.details(image) as details:
            return details.warnings

    async def nothing_is_left(self) -> None:
        """After a collection of what might be resumed: as an empty store, and nothing at work."""
        assert self.parts.running.list() == []
        await self.parts.collector.collect_now(resumable=True)
        for table in ("leases", "blobs", "snapshots", "images", "names", "views"):
            assert self.rows(f"SELECT * FROM {table}") == [], table
        assert [path for path in (self.root / "content").rglob("*") if path.is_file()] == []
        assert list((self.root / "snapshots" / "native").iterdir()) == []


Pulling = asyncio.Task[Pulled]


def files_of(top: Path) -> dict[str, bytes | None]:
    """Files' bytes, and None for directories, below `top`."""
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None
        for path in top.rglob("*")
    }


def layer(number: int, size: int = 1000, compression: images.Compression = "gzip") -> images.Layer:
    """A layer of one file that no other layer has, and one that all have."""
    return images.layer(
        {"d": directory(), f"d/{number}": file(os.urandom(size)), "top": file(f"{number}")},
        compression,
    )


def image_of(*layers: images.Layer, **process: Any) -> images.Image:
    return images.image(*layers, **process)


def serve(
    registry: FaultRegistry, image: images.Image, tag: str = "latest", repository: str = REPOSITORY
) -> Image:
    """Put an image into the registry."""
    for each in image.layers:
        registry.add_blob(each.blob, each.media_type)
    registry.add_blob(image.config)
    manifest = registry.add_manifest(repository, tag, images.MANIFEST, image.manifest)
    config = registry.add_blob(image.config, images.CONFIG)
    blobs = tuple(registry.add_blob(each.blob, each.media_type) for each in image.layers)
    return Image(manifest, config, blobs, image.manifest)


def serve_index(
    registry: FaultRegistry,
    entries: Sequence[Mapping[str, Any]],
    tag: str | None = "latest",
    repository: str = REPOSITORY,
) -> Digest:
    """Put an index of these descriptors into the registry."""
    document = json.dumps(
        {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": list(entries)}
    ).encode()
    return registry.add_manifest(repository, tag, images.INDEX, document).digest


async def until(condition: Callable[[], object]) -> None:
    """Wait until what no event tells is so."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
