"""A layer source's watermarks, followed for the whole of one apply."""

from __future__ import annotations

import asyncio
from types import TracebackType

from cri_imaged.ports import Available, Complete, Failed, LayerSource, Restart, Watermark


class SourceWatch:
    """The newest state of a source, for one attempt after another to read.

    Use as an asynchronous context manager; at its end the source is no longer listened to.
    """

    def __init__(self, source: LayerSource) -> None:
        self._source = source
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self.state: Available | Complete | Failed = Available(0)
        self.epoch = 0
        """How often the source restarted."""

    async def __aenter__(self) -> SourceWatch:
        self._task = asyncio.create_task(self._follow())
        try:
            await self.changed()  # from here on, what `open` gives is what `state` speaks of
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def changed(self) -> None:
        """Return after a change since the last return. One caller at a time."""
        await self._changed.wait()
        self._changed.clear()
        if self._error is not None:
            raise self._error

    async def _stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _saw(self, watermark: Watermark) -> None:
        if isinstance(watermark, Restart):
            self.epoch += 1
            self.state = Available(0)
        else:
            self.state = watermark
        self._changed.set()

    async def _follow(self) -> None:
        watermarks = self._source.watermarks()
        try:
            async for watermark in watermarks:
                self._saw(watermark)
            if not isinstance(self.state, Complete | Failed):
                self._saw(Failed("it ended without saying whether it is complete"))
        except Exception as error:  # raised to whoever waits for a change
            self._error = error
            self._changed.set()
        finally:
            if aclose := getattr(watermarks, "aclose", None):
                await aclose()
