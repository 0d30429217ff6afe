"""Our own History service: what happens to images and pulls, and what happened."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from cri_imaged.cri.names import ClientNames
from cri_imaged.cri.unread import UnreadAnswers
from cri_imaged.disk import on_disk
from cri_imaged.errors import QueueFullError
from cri_imaged.images.events import (
    Event,
    Events,
    ImageGone,
    ImageKnown,
    PullBegan,
    PullEnded,
    Stopping,
)
from cri_imaged.images.history import PullHistory
from cri_imaged.images.reports import LayerReport, PullReport
from cri_imaged.images.store import Image
from cri_imaged.images.timeline import Stage
from cri_imaged.limits import LISTED_REPORTS_BYTES, WATCHERS
from cri_imaged.ports import Account, PullCount
from cri_imaged.rpc.node.v1 import history_pb2 as api
from cri_imaged.rpc.node.v1 import history_pb2_grpc


class HistoryService(history_pb2_grpc.HistoryServicer):
    """See history.proto."""

    def __init__(
        self, events: Events, history: PullHistory, names: ClientNames, unread: UnreadAnswers
    ) -> None:
        self._events = events
        self._history = history
        self._unread = unread
        self._names = names
        self._watchers = 0

    async def WatchEvents(  # noqa: N802
        self, request: api.WatchEventsRequest, context: Any
    ) -> AsyncIterator[api.WatchEventsResponse]:
        """See history.proto."""
        with self._watching(), self._events.subscribe(wanted=_is_told) as events:
            yield api.WatchEventsResponse(time=time.time_ns())
            told = 0
            async for event in events:
                if events.dropped > told:
                    missed = api.Missed(events=events.dropped - told)
                    told = events.dropped
                    yield api.WatchEventsResponse(time=time.time_ns(), missed=missed)
                if isinstance(event, Stopping):
                    return
                message = _event(event)
                message.time = events.at
                yield message

    async def CountPulls(  # noqa: N802
        self, request: api.CountPullsRequest, context: Any
    ) -> api.CountPullsResponse:
        """See history.proto."""
        counts = await self._history.counts(self._names.read(request.image))
        return api.CountPullsResponse(counts=map(_count, counts))

    async def ListReports(  # noqa: N802
        self, request: api.ListReportsRequest, context: Any
    ) -> api.ListReportsResponse:
        """See history.proto."""
        image = self._names.read(request.image)
        await self._unread.room_for(LISTED_REPORTS_BYTES)
        reports = await self._history.reports(image, request.limit)
        return await on_disk(lambda: api.ListReportsResponse(reports=map(_report, reports)))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self._watchers >= WATCHERS:
            raise QueueFullError(f"{self._watchers} clients watch events already, limit {WATCHERS}")
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1


def _is_told(event: Event) -> bool:
    """Whether clients hear of it. A pull that changes nothing of its image is told as a pull."""
    if isinstance(event, ImageKnown):
        return event.image != event.before
    return isinstance(event, ImageGone | PullBegan | PullEnded | Stopping)


def _event(event: Event) -> api.WatchEventsResponse:
    match event:
        case ImageKnown(image, None):
            return api.WatchEventsResponse(image_created=_image(image))
        case ImageKnown(image):
            return api.WatchEventsResponse(image_updated=_image(image))
        case ImageGone(image):
            return api.WatchEventsResponse(image_deleted=_image(image))
        case PullBegan(_, reference, handler):
            began = api.PullBegan(reference=reference, runtime_handler=handler)
            return api.WatchEventsResponse(pull_began=began)
        case PullEnded(_, report):
            return api.WatchEventsResponse(pull_ended=_report(report))
    raise AssertionError(event)


def _image(image: Image) -> api.ImageEvent:
    return api.ImageEvent(
        image_id=image.id,
        names=(*image.repo_tags, *image.repo_digests),
        runtime_handler=image.record.handler,
    )


def _count(count: PullCount) -> api.PullCount:
    return api.PullCount(
        reference=count.name,
        runtime_handler=count.handler,
        image_id=count.image_id,
        pulls=count.pulls,
        fetched=count.fetched,
        bytes=count.bytes,
        first=int(count.first * 1e9),
        last=int(count.last * 1e9),
    )


def _report(report: PullReport) -> api.PullReport:
    return api.PullReport(
        reference=report.reference,
        runtime_handler=report.handler,
        pod=report.pod,
        began=int(report.began * 1e9),
        seconds=report.seconds,
        outcome=report.outcome,
        reason=report.reason,
        error=report.error,
        image_id=report.image_id,
        image_bytes=report.image_bytes,
        bytes_fetched=report.received,
        bytes_reused=report.reused,
        warnings=report.warnings,
        trace_id=report.trace_id,
        stages=map(_stage, report.stages),
        account=_account(report.account),
        layers=map(_layer, report.layers),
        layers_left_out=report.layers_left_out,
    )


def _layer(layer: LayerReport) -> api.LayerReport:
    return api.LayerReport(
        digest=layer.digest,
        size=layer.size,
        source=layer.source,
        stages=map(_stage, layer.stages),
        account=_account(layer.account),
    )


def _stage(stage: Stage) -> api.Stage:
    return api.Stage(name=stage.name, began=stage.began, seconds=stage.seconds)


def _account(account: Account) -> api.Account:
    failures = [
        api.FailedRequest(
            host=failure.host,
            url=failure.url,
            outcome=failure.outcome,
            seconds=failure.seconds,
            status=failure.status or 0,
        )
        for failure in account.failures
    ]
    return api.Account(hosts=account.hosts, failures=failures, failed=account.failed)
