"""A pull that gets nothing for too long ends, as containerd counts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cri_imaged.errors import Attempt, Category, RegistryError
from cri_imaged.ports import Activity

_LOOK_SECONDS = 10.0


@asynccontextmanager
async def ended_by_silence(
    activity: Activity, seconds: float | None, reference: str
) -> AsyncIterator[None]:
    """End what is done in the context once `activity` shows nothing new for `seconds` while
    requests wait for someone; None: never. Any byte of any request counts, and a time without
    requests begins the count anew. It is looked at every 10 s, or each half of less `seconds`.

    Raises:
        RegistryError: it was ended.
    """
    if seconds is None:
        yield
        return
    loop = asyncio.get_running_loop()
    silent: list[str] = []

    async def watch() -> None:
        received, since, before = 0, loop.time(), False
        look = _LOOK_SECONDS if seconds >= _LOOK_SECONDS else seconds / 2
        while True:
            await asyncio.sleep(look)
            hosts = activity.hosts
            if not hosts or not before or activity.received > received:
                received, since = activity.received, loop.time()
            elif loop.time() - since > seconds:
                silent.extend(hosts)
                deadline.reschedule(loop.time())
                return
            before = bool(hosts)

    try:
        async with asyncio.timeout(None) as deadline:
            task = asyncio.create_task(watch())
            try:
                yield
            finally:
                task.cancel()
    except TimeoutError:
        if not deadline.expired():
            raise
        outcome = f"not a byte in {seconds:g} s (image_pull_progress_timeout)"
        attempts = tuple(Attempt(host, "", outcome, seconds) for host in silent)
        what = f"cannot pull {reference}"
        raise RegistryError(Category.REGISTRY_UNAVAILABLE, what, attempts) from None
