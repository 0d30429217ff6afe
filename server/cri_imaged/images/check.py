"""Comparing the store with what its metadata says, and repairing it."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import structlog

from cri_imaged.errors import ImagedError, NotFoundError
from cri_imaged.images.discard import listing_of
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.listing import first_difference, list_tree, read_listing
from cri_imaged.images.plan import Step, image_chain
from cri_imaged.images.pull import Puller
from cri_imaged.images.rebuild import Rebuilder, stored_image
from cri_imaged.images.shielded import to_the_end
from cri_imaged.images.store import ImageStore
from cri_imaged.limits import Limits
from cri_imaged.metadata import blobs, images, leases
from cri_imaged.metadata.database import Database
from cri_imaged.metadata.images import DamagedImage
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import AlreadyPresent, Applier, ContentStore, Lease, Snapshotter, Trash

log = structlog.get_logger()

QUICK_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What is looked at now."""

    subject: str
    bytes_checked: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    """`missing-blob`, `damaged-blob`, `missing-snapshot`, `damaged-snapshot`, `orphan`."""
    subject: str
    description: str
    images: tuple[str, ...] = ()
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a check."""

    blobs: int
    snapshots: int
    images: int
    bytes: int
    problems: int
    repaired: int


Event: TypeAlias = Progress | Problem | Summary


class Checker:
    """Checks the store, whether or not a daemon serves from it."""

    def __init__(
        self,
        *,
        database: Database,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        applier: Applier,
        rebuilder: Rebuilder,
        puller: Puller,
        collector: GarbageCollector,
        trash: Trash,
        store: ImageStore,
        limits: Limits,
    ) -> None:
        self._database = database
        self._content = content
        self._snapshotters = snapshotters
        self._applier = applier
        self._rebuilder = rebuilder
        self._puller = puller
        self._collector = collector
        self._trash = trash
        self._store = store
        self._limits = limits

    async def check(self, *, repair: bool) -> AsyncIterator[Event]:
        """Verify every blob by its digest, every snapshot by its layer unpacked again (or by what
        was written down of it), and look for files that belong to nothing.

        Problems come when they are found, or, with `repair`, when it was tried to mend them.
        """
        sizes = await self._database.read(blobs.all_present)
        total, seen = sum(sizes.values()), 0
        problems: list[Problem] = []
        for digest, size in sizes.items():
            yield Progress(f"blob {digest}", seen, total)
            problem = await self._check_blob(digest)
            seen += size
            if problem is not None:
                problems.append(problem)
                if not repair:
                    yield problem
        steps = await self._steps()
        count = 0
        for snapshotter in self._snapshotters.values():
            for info in await snapshotter.walk():
                yield Progress(f"{snapshotter.name} snapshot {info.chain_id}", seen, total)
                count += 1
                problem = await self._check_snapshot(snapshotter, info.chain_id, steps)
                if problem is not None:
                    problems.append(problem)
                    if not repair:
                        yield problem
        for path in await self._orphans():
            problems.append(Problem("orphan", str(path), "belongs to nothing that is known"))
            if not repair:
                yield problems[-1]
        if repair and problems:
            problems = await self._repair(problems)
            for problem in problems:
                yield problem
        yield Summary(
            blobs=len(sizes),
            snapshots=count,
            images=len(self._store.all()),
            bytes=total,
            problems=len(problems),
            repaired=sum(problem.repaired for problem in problems),
        )

    async def run(self) -> None:
        """The background task: find out where somebody else removed files."""
        while True:
            await asyncio.sleep(QUICK_SECONDS)
            try:
                await self.quick()
            except Exception:
                log.exception("quick check failed; it is tried again later")

    async def quick(self) -> None:
        """Look only whether the files are there. An image that lost some is hidden, and rebuilt
        where its blobs are whole."""
        await self._content.notice_lost()
        for snapshotter in self._snapshotters.values():
            await snapshotter.notice_lost()
        for image in await to_the_end(self._hide_damaged()):
            await self._rebuilder.rebuild(image)

    async def _check_blob(self, digest: Digest) -> Problem | None:
        if await self._content.verify(digest):
            return None
        info = await self._content.info(digest)
        if info is None or info.state != "present":
            return None  # removed or discarded meanwhile
        names = tuple(await self._database.read(lambda db: images.users_of_blob(db, digest)))
        try:
            self._content.open(digest).close()
        except NotFoundError:
            return Problem("missing-blob", digest, "its file is gone", names)
        return Problem("damaged-blob", digest, "its file has other bytes", names)

    async def _check_snapshot(
        self, snapshotter: Snapshotter, chain_id: Digest, steps: Mapping[Digest, Step]
    ) -> Problem | None:
        try:
            tree = await snapshotter.path(chain_id)
            try:
                kind, difference = await self._examine(snapshotter, tree, steps.get(chain_id))
            except OSError as error:
                kind, difference = "damaged-snapshot", f"it cannot be read: {error}"
            if difference is None or await snapshotter.path(chain_id) != tree:
                return None
        except NotFoundError:
            return None  # removed meanwhile: what was seen was its removal
        except ImagedError as error:
            log.warning("snapshot could not be checked", chain_id=chain_id, error=str(error))
            return None
        names = await self._database.read(
            lambda db: images.users_of_snapshot(db, snapshotter.name, chain_id)
        )
        return Problem(kind, f"{snapshotter.name}/{chain_id}", difference, tuple(names))

    async def _examine(
        self, snapshotter: Snapshotter, tree: Path, step: Step | None
    ) -> tuple[str, str | None]:
        if not await asyncio.to_thread(tree.is_dir):
            return "missing-snapshot", "its directory is gone"
        return "damaged-snapshot", await self._difference(snapshotter, tree, step)

    async def _difference(
        self, snapshotter: Snapshotter, tree: Path, step: Step | None
    ) -> str | None:
        written = listing_of(tree)
        if written.exists():
            return await asyncio.to_thread(
                lambda: first_difference(read_listing(written), list_tree(tree))
            )
        info = await self._content.info(step.layer.digest) if step is not None else None
        if step is None or info is None or info.state != "present":
            return None
        lease = leases.new()
        await self._database.write(lambda db: leases.insert(db, lease))
        try:
            again = await self._unpack_again(snapshotter, step, lease)
            return await asyncio.to_thread(
                lambda: first_difference(list_tree(again), list_tree(tree))
            )
        finally:
            await self._database.write(
                lambda db: leases.end(db, lease, keep_for_resume=False), makes_room=True
            )
            await self._collector.collect()

    async def _unpack_again(self, snapshotter: Snapshotter, step: Step, lease: Lease) -> Path:
        """Unpack a layer as it was, under a chain ID that means nothing."""
        key = f"check-{uuid.uuid4().hex}"
        into = await snapshotter.prepare(key, step.parent, lease, {})
        assert not isinstance(into, AlreadyPresent)
        try:
            source = self._content.source(step.layer.digest)
            applied = await self._applier.apply(
                source, step.layer.media_type, into, algorithm=step.diff_id.algorithm
            )
        except BaseException:
            await to_the_end(snapshotter.remove(key))
            raise
        chain_id = Digest.of(key.encode())
        await snapshotter.commit(chain_id, key, step.parent, applied)
        return await snapshotter.path(chain_id)

    async def _steps(self) -> dict[Digest, Step]:
        """How each snapshot that an image stands on was made."""
        steps: dict[Digest, Step] = {}
        for manifest_digest, image_id in await self._database.read(images.manifests):
            try:
                manifest, config = await stored_image(
                    self._content, manifest_digest, image_id, self._limits
                )
                chain = image_chain(manifest, config)
            except ImagedError:
                continue  # the blob's own problem says so
            for layer, diff_id, parent, chain_id in zip(
                manifest.layers, config.diff_ids, [None, *chain], chain, strict=False
            ):
                steps[chain_id] = Step(layer, diff_id, parent, chain_id)
        return steps

    async def _orphans(self) -> list[Path]:
        async with self._collector.quiet:
            found = list(await self._content.orphans())
            for snapshotter in self._snapshotters.values():
                found.extend(await snapshotter.orphans())
        return found

    async def _repair(self, problems: list[Problem]) -> list[Problem]:
        for problem in problems:
            if problem.kind == "orphan":
                self._trash.put(Path(problem.subject))
        failed: set[str] = set()
        for image in await to_the_end(self._give_up(problems)):
            if not await self._rebuilder.rebuild(image) and not await self._pull(image):
                failed.update(image.names)
        self._collector.trigger()
        return [replace(p, repaired=failed.isdisjoint(p.images)) for p in problems]

    async def _give_up(self, problems: list[Problem]) -> list[DamagedImage]:
        """Let go of what is wrong, and hide the images that had it: all of them before the first
        is mended, which may take long."""
        lost = [Digest(p.subject) for p in problems if p.kind.endswith("-blob")]
        gone = [p.subject.split("/", 1) for p in problems if p.kind.endswith("-snapshot")]

        def let_go(db: sqlite3.Connection) -> None:
            blobs.lost(db, lost)
            for snapshotter, chain_id in gone:
                images.detach_chain(db, snapshotter, chain_id)

        await self._database.write(let_go, durable=True)
        await self._content.reclaim(lost)
        return await self._hide_damaged()

    async def _hide_damaged(self) -> list[DamagedImage]:
        damaged = await self._database.read(images.damaged)
        for image in damaged:
            await self._store.refresh(image.image_id, image.handler)
        return damaged

    async def _pull(self, image: DamagedImage) -> bool:
        """Fetch what is missing, with the node's own credentials."""
        for name in image.names:
            if "@" not in name:
                continue
            try:
                await self._puller.pull(name, image.handler)
            except ImagedError as error:
                log.warning("image could not be pulled again", image=name, error=str(error))
            else:
                return True
        return False
