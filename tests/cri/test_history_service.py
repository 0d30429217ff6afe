"""The stream of events, where its reader does not keep up."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from cri_imaged.cri.history_service import HistoryService
from cri_imaged.cri.names import ClientNames
from cri_imaged.cri.unread import UnreadAnswers
from cri_imaged.images.events import Events, PullBegan, PullProgressed, Stopping
from cri_imaged.images.history import PullHistory
from cri_imaged.images.store import ImageStore
from cri_imaged.limits import Limits
from cri_imaged.metadata.database import Database
from cri_imaged.rpc.node.v1 import history_pb2 as api


async def test_a_slow_reader_is_told_how_many_events_it_missed(tmp_path: Path) -> None:
    events = Events()
    database = await Database.open(tmp_path / "metadata.db")
    store = ImageStore(database, (), ())
    service = HistoryService(
        events, PullHistory(database, store), ClientNames(Limits(), {}), UnreadAnswers()
    )
    async with (
        AsyncExitStack() as stack,
        aclosing(service.WatchEvents(api.WatchEventsRequest(), None)) as slow,  # type: ignore[type-var]
        aclosing(service.WatchEvents(api.WatchEventsRequest(), None)) as quick,  # type: ignore[type-var]
    ):
        stack.push_async_callback(database.close)
        assert not (await anext(slow)).WhichOneof("event")
        assert not (await anext(quick)).WhichOneof("event")
        for number in range(2000):
            events.publish(PullBegan(str(number), f"a/b:{number}", ""))
            events.publish(PullProgressed(str(number), "resolving"))  # which nobody is told
            assert (await anext(quick)).pull_began.reference == f"a/b:{number}"
        events.publish(Stopping())
        happened = time.time_ns()
        assert (await anext(slow)).missed.events == 2000 - 1024
        late = [each async for each in slow]
        assert [each.pull_began.reference for each in late] == [f"a/b:{n}" for n in range(1024)]
        assert late[-1].time < happened, "an event has the time at which it happened"
        assert [each async for each in quick] == []
