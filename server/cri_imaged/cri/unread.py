"""Large answers. A client that asks and does not read makes us hold their bytes."""

from __future__ import annotations

import asyncio

from cri_imaged.errors import QueueFullError
from cri_imaged.limits import UNREAD_ANSWER_SECONDS, UNREAD_ANSWERS_BYTES

_SMALL_BYTES = 64 << 10


class UnreadAnswers:
    """How many bytes of answers clients have not taken yet, over all calls."""

    def __init__(
        self, limit: int = UNREAD_ANSWERS_BYTES, seconds: float = UNREAD_ANSWER_SECONDS
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._held = 0
        self._taken = asyncio.Event()

    async def room_for(self, size: int) -> None:
        """Wait until an answer of `size` bytes may be made, by the call whose task this runs in. It
        counts until that has ended: gRPC ends it when the client has taken the answer. One alone
        may be of any size.

        Raises:
            QueueFullError: clients take theirs too slowly.
        """
        if size <= _SMALL_BYTES:
            return
        try:
            async with asyncio.timeout(self._seconds):
                while self._held and self._held + size > self._limit:
                    self._taken.clear()
                    await self._taken.wait()
        except TimeoutError:
            raise QueueFullError(
                f"clients have not read {self._held} bytes of answers yet, limit {self._limit}; "
                "try again later"
            ) from None
        self._held += size
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._give_back(size))

    def _give_back(self, size: int) -> None:
        self._held -= size
        self._taken.set()
