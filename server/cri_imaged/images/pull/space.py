"""Room on the disk for what pulls bring in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from cri_imaged.disk import on_disk
from cri_imaged.errors import NoSpaceError
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.pull.reserve import Claim, Reserve, Writing
from cri_imaged.images.volume import Volume


class Space:
    """Shared by all pulls: what one of them is still to bring is no room for another."""

    def __init__(self, disk: Volume, collector: GarbageCollector) -> None:
        self._disk = disk
        self._collector = collector
        self._reserve = Reserve(disk, self.make_room)

    async def make_sure(
        self, missing: int, here: Callable[[], Awaitable[int]] | None = None
    ) -> None:
        """Refuse to bring `missing` compressed bytes, but those of them that are `here`, where they
        cannot fit beside what other pulls are still to bring, once what unfinished pulls left is
        gone. What they unpack to is not known before; it is measured when it comes to that.

        Raises:
            NoSpaceError: with the figures.
        """
        if not missing or await self._shortage(missing) is None:
            return
        if here is not None:
            await self.make_sure(missing - await here())
            return
        await self.make_room()
        problem = await self._shortage(missing)
        if problem is not None:
            raise NoSpaceError(f"no space for this image: {problem}")

    async def make_room(self) -> bool:
        """Let leftovers of unfinished pulls go. Returns whether there were any."""
        collected = await self._collector.collect_now(resumable=True)
        return bool(collected.bytes)

    async def watch(self) -> None:
        """The background task: keeps the reserve while pulls write."""
        await self._reserve.watch()

    async def room_for(self, size: int) -> None:
        """Wait until `size` bytes more may be written."""
        await self._reserve.room_for(size)

    def claim(self, writing: Writing) -> AbstractContextManager[Claim]:
        """Keep room for what a pull is still to bring while the context lasts, and the disk's
        reserve free while it writes."""
        return self._reserve.claim(writing)

    async def _shortage(self, missing: int) -> str | None:
        room, shortage = await on_disk(lambda: (self._disk.room(), self._disk.shortage()))
        others = self._reserve.outstanding
        if missing + others > room:
            return (
                f"{missing} compressed bytes are missing, other pulls "
                f"bring {others}, {self._disk.root} has {room + self._disk.reserve} bytes free and "
                f"keeps {self._disk.reserve} in reserve (image.disk_reserve); remove images or "
                "make room"
            )
        return shortage
