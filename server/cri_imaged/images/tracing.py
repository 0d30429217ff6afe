"""Pulls as traces: the report on a pull, as spans with containerd's attribute names."""

from __future__ import annotations

from collections.abc import Iterator

from cri_imaged.images.events import Event, Listener, PullEnded
from cri_imaged.images.reports import LayerReport, PullReport
from cri_imaged.obs.tracing import Exporter, Span

_LAYERS = {"fetching": "fetch", "unpacking": "apply", "sealing": "seal"}
"""Stages of layers that are spans; all others are waits."""


def tracing(exporter: Exporter) -> Listener:
    """A listener that exports each pull."""

    def export(event: Event) -> None:
        if isinstance(event, PullEnded) and event.report.trace is not None:
            exporter.export(span_of(event.report), event.report.trace)

    return export


def span_of(report: PullReport) -> Span:
    """The pull with what was done for it."""
    attributes: dict[str, str | int] = {
        "image.ref": report.reference,
        "snapshotter.name": report.snapshotter,
        "runtime.handler": report.handler,
        "k8s.pod": report.pod,
        "image.id": report.image_id,
        "bytes.fetched": report.received,
        "bytes.reused": report.reused,
    }
    failed = report.error or report.outcome
    return Span(
        name="pull",
        began=report.began,
        seconds=report.seconds,
        attributes={key: value for key, value in attributes.items() if value != ""},
        error="" if report.outcome == "success" else failed,
        children=[*_resolving(report), *(s for layer in report.layers for s in _of(layer, report))],
    )


def _resolving(report: PullReport) -> Iterator[Span]:
    for stage in report.stages:
        if stage.name == "resolving":
            attributes: dict[str, str | int] = {"image.ref": report.reference}
            if report.account.hosts:
                attributes["server.address"] = ",".join(report.account.hosts)
            yield Span("resolve", report.began + stage.began, stage.seconds, attributes)


def _of(layer: LayerReport, report: PullReport) -> Iterator[Span]:
    attributes: dict[str, str | int] = {
        "layer.media.type": layer.media_type,
        "layer.media.size": layer.size,
        "layer.media.digest": layer.digest,
    }
    for stage in layer.stages:
        if (name := _LAYERS.get(stage.name)) is None:
            continue
        own: dict[str, str | int] = {}
        if name == "fetch":
            own = {"server.address": ",".join(layer.account.hosts), "retries": layer.account.failed}
        elif report.snapshotter:
            own = {"snapshotter.name": report.snapshotter}
        yield Span(name, report.began + stage.began, stage.seconds, {**attributes, **own})
