"""One ingest, whatever comes between its chunks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.content.backlog import Backlog
from cri_imaged.content.ingest import FileIngest
from cri_imaged.errors import NoSpaceError
from cri_imaged.limits import KIB, MIB
from cri_imaged.ports import BlobInfo
from tests.content.workbench import descriptor

DATA = os.urandom(5 * MIB)


@dataclass(frozen=True)
class Step:
    """So many bytes come, and this happens then."""

    size: int
    event: str


STEPS = st.builds(
    Step,
    st.sampled_from([1, 1000, 60 * KIB, 300 * KIB, MIB]),
    st.sampled_from(["", "", "", "later", "restart", "full", "cancel", "cancel restart", "reopen"]),
)


class Disk:
    """One that is full at the next write, where it is told so."""

    def __init__(self) -> None:
        self.full = False
        self._pwrite = os.pwrite

    def pwrite(self, fd: int, data: memoryview, at: int) -> int:
        time.sleep(0.0005)  # so that more comes meanwhile
        if self.full:
            self.full = False
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._pwrite(fd, data, at)


async def cancelled(work: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def life(ingest: FileIngest, data: bytes, steps: list[Step], disk: Disk) -> bool:
    """Of one ingest, from the first of these steps on; whether its blob came whole."""
    await ingest.resume()
    try:
        while ingest.offset < len(data):
            step = steps.pop(0) if steps else Step(MIB, "")
            disk.full = step.event == "full"
            chunk = data[ingest.offset : ingest.offset + step.size]
            writing = ingest.write(chunk)
            await (cancelled(writing) if step.event == "cancel" else writing)
            if step.event == "restart":
                await ingest.restart()
            elif step.event == "cancel restart":
                await cancelled(ingest.restart())
            elif step.event == "later":
                await asyncio.sleep(0.001)
            elif step.event == "reopen":
                return False
        if steps and steps.pop(0).event == "cancel":
            await cancelled(ingest.commit())
            return False
        await ingest.commit()
    except NoSpaceError:
        return False
    finally:
        await ingest.close()
    return True


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([1, 50 * KIB, 64 * KIB, 64 * KIB + 1, 5 * MIB]), st.lists(STEPS, max_size=12)
)
def test_it_becomes_the_blob_and_nothing_is_left_waiting(size: int, steps: list[Step]) -> None:
    data, disk, backlog = DATA[:size], Disk(), Backlog()
    with TemporaryDirectory() as folder, mock.patch("os.pwrite", disk.pwrite):
        path, blob = Path(folder) / "ingest", Path(folder) / "blob"

        async def publish(_: Path, __: BlobInfo, complete: Callable[[], None]) -> None:
            complete()
            os.rename(path, blob)

        for _ in range(len(steps) + 2):
            ingest = FileIngest(descriptor(data), path, blob, backlog, publish)
            whole = asyncio.run(life(ingest, data, steps, disk))
            assert backlog.bytes == 0
            if whole:
                break
            assert not path.exists() or data.startswith(path.read_bytes())
        assert blob.read_bytes() == data
        assert not path.exists()
