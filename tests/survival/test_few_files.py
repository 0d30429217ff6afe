"""A daemon that may open few files refuses what it cannot do, and goes on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import grpc
import pytest

from tests.neighbours.honest import serve
from tests.support.daemon import Daemon
from tests.support.images import file, image, layer
from tests.support.process import wait_until
from tests.support.registry import FaultRegistry
from tests.support.require import require_real

pytestmark = pytest.mark.real

PULLS = 40


@pytest.mark.parametrize("most", [96, 256])
async def test_a_crowd_with_few_files_ends_no_daemon(tmp_path: Path, most: int) -> None:
    require_real(os.geteuid() == 0, "overlay needs root")
    async with FaultRegistry() as registry:
        names = [
            serve(registry, f"team{n}/app", image(*(layer({"f": file(f"{n} {k}")}) for k in "abc")))
            for n in range(PULLS)
        ]
        with Daemon(tmp_path, level="info", wrapper=["prlimit", f"--nofile={most}"]) as daemon:

            async def pull(name: str) -> grpc.StatusCode:
                try:
                    await daemon.pull_meanwhile(name, within=60)
                except grpc.RpcError as error:
                    code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
                    return code
                return grpc.StatusCode.OK

            answers = await asyncio.gather(*map(pull, names))
            assert set(answers) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert await pull(names[0]) is grpc.StatusCode.OK
            trash = daemon.root / "trash"
            wait_until(lambda: not any(trash.iterdir()), "what failed pulls left is removed")
