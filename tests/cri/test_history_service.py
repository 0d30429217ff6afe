"""The stream of events, where its reader does not keep up."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from cri_imaged.cri.history_service import HistoryService
from cri_imaged.cri.names import ClientNames
from cri_imaged.cri.unread import UnreadAnswers
from cri_imaged.images.events import Events, PullBegan, Stopping
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
        aclosing(service.WatchEvents(api.WatchEventsRequest(), None)) as slow,  # type: ignore[type-var]
        aclosing(service.WatchEvents(api.WatchEventsRequest(), None)) as quick,  # type: ignore[type-var]
    ):
        assert not (await anext(slow)).WhichOneof("event")
        assert not (await anext(quick)).WhichOneof("event")
        for number in range(2000):
            events.publish(PullBegan(str(number), f"a/b:{number}", ""))
            assert (await anext(quick)).pull_began.reference == f"a/b:{number}"
        assert (await anext(slow)).missed.events == 2000 - 1024
        assert (await anext(slow)).pull_began.reference == "a/b:0"
        events.publish(Stopping())
        assert [each async for each in quick] == []
    await database.close()
