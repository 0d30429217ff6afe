"""What the log and the metrics tell of events."""

from __future__ import annotations

import asyncio

import structlog

from cri_imaged.errors import InvalidRequestError
from cri_imaged.images.events import (
    Event,
    GarbageCollected,
    ImageGone,
    ImageKnown,
    Listener,
    PullBegan,
    PullEnded,
    StoreChecked,
)
from cri_imaged.images.reports import PullReport
from cri_imaged.obs.metrics import Metrics
from cri_imaged.obs.pull_metrics import PullFigures
from cri_imaged.oci.reference import Reference

log = structlog.get_logger()


def counting(metrics: Metrics) -> Listener:
    """A listener that counts pulls, whoever asked for them, collections and checks."""

    def count(event: Event) -> None:
        if isinstance(event, PullBegan):
            metrics.pull_began()
        elif isinstance(event, PullEnded):
            metrics.pull_ended(_figures(event.report))
        elif isinstance(event, GarbageCollected):
            objects = {"blobs": event.blobs, "snapshots": event.snapshots}
            metrics.upkeep.collected(objects, event.bytes)
        elif isinstance(event, StoreChecked):
            tell = metrics.upkeep.checked if event.whole else metrics.upkeep.found
            tell(event.problems, event.repaired)

    return count


def write_log(event: Event) -> None:
    """A listener: a line for each image that comes, changes or goes, and each pull. To make one
    takes longer than to hand a client its answer, so that comes first."""
    asyncio.get_running_loop().call_soon(_write, event)


def _write(event: Event) -> None:
    if isinstance(event, ImageKnown):
        image = event.image
        if event.before is None:
            log.info("image is here", image_id=image.id, names=image.record.names)
        elif image != event.before:
            log.info("image has changed", image_id=image.id, names=image.record.names)
    elif isinstance(event, ImageGone):
        log.info("image is gone", image_id=event.image.id, names=event.image.record.names)
    elif isinstance(event, PullBegan):
        log.debug("pull began", reference=event.reference, handler=event.handler)
    elif isinstance(event, PullEnded):
        _write_pull(event.report)


def _write_pull(report: PullReport) -> None:
    tell = log.warning if report.warnings else log.info
    there = {
        "pod": report.pod,
        "warnings": report.warnings,
        "error": report.error,
        "reason": report.reason,
        "retries": report.retries,
        "trace_id": report.trace_id,
    }
    tell(
        "pull ended",
        reference=report.reference,
        handler=report.handler,
        outcome=report.outcome,
        seconds=round(report.seconds, 4),
        image_id=report.image_id,
        size=report.image_bytes,
        bytes_fetched=report.received,
        hosts=report.hosts,
        **{key: value for key, value in there.items() if value},
    )


def _figures(report: PullReport) -> PullFigures:
    try:
        registry = Reference.parse(report.reference).registry
    except InvalidRequestError:
        registry = ""
    accounts = (report.account, *(layer.account for layer in report.layers))
    return PullFigures(
        registry=registry,
        outcome=report.outcome,
        reason=report.reason,
        seconds=report.seconds,
        image_bytes=report.image_bytes,
        received=report.received,
        reused=report.reused,
        phases=_phases(report),
        failed=[each.status for account in accounts for each in account.failures],
    )


def _phases(report: PullReport) -> dict[str, float]:
    """How long each phase of the pull took: from the first layer's begin to the last one's end."""
    found = {"resolve": sum(each.seconds for each in report.stages if each.name == "resolving")}
    for phase, stage in (("fetch", "fetching"), ("unpack", "unpacking"), ("seal", "sealing")):
        spans = [each for layer in report.layers for each in layer.stages if each.name == stage]
        if spans:
            end = max(each.began + each.seconds for each in spans)
            found[phase] = end - min(each.began for each in spans)
    return found
