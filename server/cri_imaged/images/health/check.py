"""Comparing the store with what its metadata says."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from pathlib import Path

import structlog

from cri_imaged.errors import ImagedError, NotFoundError, QueueFullError
from cri_imaged.images.events import Events, StoreChecked
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.health.problems import (
    BlobProblem,
    Event,
    Orphan,
    Problem,
    Progress,
    SnapshotProblem,
    Summary,
    Unverified,
)
from cri_imaged.images.health.rebuild import stored_image
from cri_imaged.images.health.repair import Repairer
from cri_imaged.images.leases import holding, never
from cri_imaged.images.pull.plan import Step, steps_of
from cri_imaged.images.stores import Stores
from cri_imaged.images.transfers.rights import gives
from cri_imaged.images.verification.standing import Standing
from cri_imaged.metadata import blobs, images
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Applier, Decrypter, LayerSecret, SnapshotInfo, Snapshotter, Verdict
from cri_imaged.shielding import to_the_end

log = structlog.get_logger()

QUICK_SECONDS = 300.0


class Checker:
    """Checks the store, whether or not a daemon serves from it."""

    def __init__(
        self,
        stores: Stores,
        applier: Applier,
        collector: GarbageCollector,
        repairer: Repairer,
        standing: Standing,
        decrypter: Decrypter,
        events: Events,
    ) -> None:
        self._events = events
        self._stores = stores
        self._applier = applier
        self._collector = collector
        self._repairer = repairer
        self._standing = standing
        self._decrypter = decrypter
        self._checking = False

    async def check(self, *, repair: bool) -> AsyncIterator[Event]:
        """Verify every blob by its digest, every snapshot by its layer unpacked again (or by what
        was written down of it), and look for files that belong to nothing, and for images that the
        policy would let nobody pull.

        Problems come when they are found, or, with `repair`, when it was tried to mend them.

        Raises:
            QueueFullError: another check runs; it reads and unpacks all that is here.
        """
        if self._checking:
            raise QueueFullError("a check of the store runs already; wait for its end")
        self._checking = True
        try:
            async for event in self._check(repair=repair):
                yield event
        finally:
            self._checking = False

    async def _check(self, *, repair: bool) -> AsyncIterator[Event]:
        sizes = await self._stores.database.read(blobs.all_present)
        total = sum(sizes.values())
        snapshots = await self._snapshots()
        problems: list[Problem] = []
        async for found in self._look(sizes, snapshots, total):
            if not isinstance(found, Progress):
                problems.append(found)
            if not repair or isinstance(found, Progress):
                yield found
        if repair and problems:
            problems = await self._repair(problems)
            for problem in problems:
                yield problem
        repaired = sum(problem.repaired for problem in problems)
        self._events.publish(StoreChecked(len(problems), repaired))
        yield Summary(
            blobs=len(sizes),
            snapshots=len(snapshots),
            images=len(self._repairer.publisher.store.all()),
            bytes=total,
            problems=len(problems),
            repaired=repaired,
        )

    async def _repair(self, problems: Sequence[Problem]) -> list[Problem]:
        mended = await self._repairer.repair(problems)
        if any(isinstance(problem, BlobProblem) for problem in problems):
            # What such a blob gave could be compared with nothing before.
            found = [each async for each in self._look({}, await self._snapshots(), 0)]
            mended += await self._repairer.repair(
                [each for each in found if isinstance(each, SnapshotProblem)]
            )
        return mended

    async def _snapshots(self) -> list[tuple[Snapshotter, SnapshotInfo]]:
        return [
            (snapshotter, info)
            for snapshotter in self._stores.snapshotters.values()
            for info in await snapshotter.walk()
        ]

    async def _look(
        self,
        sizes: Mapping[Digest, int],
        snapshots: Sequence[tuple[Snapshotter, SnapshotInfo]],
        total: int,
    ) -> AsyncIterator[Progress | Problem]:
        seen = 0
        for digest, size in sizes.items():
            yield Progress(f"blob {digest}", seen, total)
            seen += size
            if problem := await self._check_blob(digest):
                yield problem
        manifests = await self._manifests({info.chain_id for _, info in snapshots})
        for snapshotter, info in snapshots:
            yield Progress(f"{snapshotter.name} snapshot {info.chain_id}", seen, total)
            made_by = manifests.get(info.chain_id, ())
            if found := await self._check_snapshot(snapshotter, info, made_by):
                yield found
        for path in await self._orphans():
            yield Orphan(path)
        for image in self._repairer.publisher.store.all():
            async for objection in self._standing.objections(image):
                yield Unverified(
                    objection.name, objection.at_digest, image.record.handler, objection.reason
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
        await self._stores.content.notice_lost()
        for snapshotter in self._stores.snapshotters.values():
            try:
                await snapshotter.notice_lost()
            except ImagedError as error:  # a proxy that is away hides nobody else's losses
                log.warning(
                    "snapshotter could not be looked at; it is tried again later",
                    snapshotter=snapshotter.name,
                    error=str(error),
                )
        damaged = await to_the_end(self._repairer.hide_damaged())
        rebuilt = [await self._repairer.rebuilder.rebuild(image) for image in damaged]
        self._events.publish(StoreChecked(len(damaged), sum(rebuilt), whole=False))

    async def _check_blob(self, digest: Digest) -> BlobProblem | None:
        content = self._stores.content
        if await content.verify(digest):
            return None
        info = await content.info(digest)
        if info is None or info.state != "present":
            return None  # removed or discarded meanwhile
        names = await self._stores.database.read(lambda db: images.users_of_blob(db, digest))
        return BlobProblem(digest, not await content.has_file(digest), tuple(names))

    async def _check_snapshot(
        self, snapshotter: Snapshotter, info: SnapshotInfo, manifests: Sequence[Digest]
    ) -> SnapshotProblem | None:
        chain_id = info.chain_id
        try:
            verdict = await snapshotter.verify(chain_id)
            if verdict.state == "unknown":
                verdict = await self._verify_by_blob(snapshotter, info, manifests)
        except NotFoundError:
            return None  # removed meanwhile: what was seen was its removal
        except ImagedError as error:
            log.warning("snapshot could not be checked", chain_id=chain_id, error=str(error))
            return None
        if not verdict.difference:
            return None
        names = await self._stores.database.read(
            lambda db: images.users_of_snapshot(db, snapshotter.name, chain_id)
        )
        return SnapshotProblem(
            snapshotter.name,
            chain_id,
            verdict.state == "missing",
            verdict.difference,
            tuple(names),
        )

    async def _verify_by_blob(
        self, snapshotter: Snapshotter, info: SnapshotInfo, manifests: Sequence[Digest]
    ) -> Verdict:
        """Unpack the layer again from a blob that gives it. What an image claims of its blobs is no
        proof; where an earlier version of the program made the snapshot, it has to be tried."""
        for manifest in manifests:
            step = await self._step(manifest, info.chain_id)
            if step is None:
                continue
            secret = (await self._decrypter.unwrap([step.layer])).get(step.layer.digest)
            if info.provenance and not gives(info, step, secret):
                continue
            blob = await self._stores.content.info(step.layer.digest)
            if blob is not None and blob.state == "present":
                verdict = await self._unpack_again(snapshotter, step, secret)
                if verdict.state != "unknown":
                    return verdict
        return Verdict("unknown")

    async def _unpack_again(
        self, snapshotter: Snapshotter, step: Step, secret: LayerSecret | None
    ) -> Verdict:
        key = f"check-{uuid.uuid4().hex}"
        async with holding(self._stores.database, keep_for_resume=never) as lease:
            try:
                into = await snapshotter.prepare(key, step.parent, lease)
                source = self._stores.content.source(step.layer.digest)
                applied = await self._applier.apply(
                    source,
                    step.layer,
                    into,
                    algorithm=step.algorithm,
                    secret=secret,
                )
                if step.diff_id not in (None, applied.diff_id):
                    return Verdict("unknown")
                return await snapshotter.verify_by(step.chain_id, key, applied)
            finally:
                await to_the_end(snapshotter.remove(key))

    async def _manifests(self, chain_ids: Set[Digest]) -> dict[Digest, list[Digest]]:
        """Whose images say how each of these snapshots was made. Not what they say: all images'
        layers together are much to hold."""
        manifests: dict[Digest, list[Digest]] = defaultdict(list)
        for manifest in await self._stores.database.read(images.manifests):
            for step in await self._steps(manifest):
                if step.chain_id in chain_ids:
                    manifests[step.chain_id].append(manifest)
        return manifests

    async def _steps(self, manifest: Digest) -> Sequence[Step]:
        try:
            return steps_of(*await stored_image(self._stores.documents, manifest))
        except ImagedError:
            return ()  # the blob's own problem says so

    async def _step(self, manifest: Digest, chain_id: Digest) -> Step | None:
        steps = await self._steps(manifest)
        return next((step for step in steps if step.chain_id == chain_id), None)

    async def _orphans(self) -> list[Path]:
        async with self._collector.quiet:
            found = list(await self._stores.content.orphans())
            for snapshotter in self._stores.snapshotters.values():
                found.extend(await snapshotter.orphans())
        return found
