"""What is told of the snapshots of runtimes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

from cri_imaged.cri.runtimes_service import RuntimesService
from cri_imaged.ports import Runtime
from cri_imaged.rpc.node.v1 import runtimes_pb2 as api
from tests.snapshots.conftest import opened

COLLECTOR = cast(Any, None)
"""Nothing is forgotten here."""


async def test_a_snapshot_that_goes_while_all_are_listed_is_left_out() -> None:
    async with opened("native", None) as bench:
        snapshots = bench.snapshotter.for_runtime("containerd", lambda: None)
        for key in ("goes", "stays"):
            await snapshots.prepare(key, "", {})
        service = RuntimesService({"containerd": Runtime(None, {"native": snapshots})}, COLLECTOR)
        gate = threading.Event()
        busy = asyncio.ensure_future(bench.database.read(lambda db: gate.wait(timeout=60)))
        listing = asyncio.create_task(
            service.ListRuntimeSnapshots(api.ListRuntimeSnapshotsRequest(), None)
        )
        await asyncio.sleep(0)  # its first look waits in line
        removal = asyncio.create_task(snapshots.remove("goes"))
        for _ in range(10):
            await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(busy, removal)
        assert [each.name for each in (await listing).snapshots] == ["stays"]
