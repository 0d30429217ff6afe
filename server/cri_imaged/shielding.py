"""Work that a cancellation must not tear."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(
    work: Awaitable[T],
    *,
    undo: Callable[[], Coroutine[Any, Any, object]] | None = None,
    interrupt: Callable[[], object] | None = None,
) -> T:
    """Run `work` to its end even where the caller is cancelled meanwhile; the cancellation is
    raised when it is done.

    `interrupt` is called when a cancellation arrives, to tell the work that its result is not
    wanted. `undo` runs, to its end too, where the work succeeded for a caller that was cancelled.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        ended = asyncio.get_running_loop().create_future()
        task.add_done_callback(partial(_wake, ended))
        try:
            await ended
        except asyncio.CancelledError as error:
            cancelled = error
            if interrupt is not None:
                interrupt()
    if cancelled is None:
        try:
            return task.result()
        finally:
            del task  # else its error would hold this frame, and this frame the error
    if task.cancelled() or task.exception() is not None:
        raise cancelled
    if undo is not None:
        await to_the_end(undo())
    raise cancelled


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)
