"""A report on a pull as lines with bars: what was waited for, and what took long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cri_imaged.cli.output import size, time
from cri_imaged.rpc.node.v1 import history_pb2 as api

WIDTH = 40
"""Characters of a bar's whole time."""
_SOURCES = {
    "fetched": "fetched",
    "shared": "fetched by another pull meanwhile",
    "here": "was here",
    "unpacked": "was here, unpacked",
}


def explained(report: api.PullReport) -> list[str]:
    """The report for people."""
    lines = [*_head(report), "", *_bars(report.stages, report.seconds), *_tried(report.account)]
    for layer in report.layers:
        lines += ["", _layer(layer)]
        lines += _bars(layer.stages, report.seconds)
        lines += _tried(layer.account)
    if report.layers_left_out:
        lines += ["", f"and {report.layers_left_out} layers that took less time"]
    return lines


def _head(report: api.PullReport) -> list[str]:
    took = f"{report.outcome} in {report.seconds:.2f} s"
    facts = [
        ("for", report.pod),
        ("handler", report.runtime_handler),
        ("image", report.image_id),
        ("failed", f"{report.reason}: {report.error}" if report.reason else ""),
        ("trace", report.trace_id),
    ]
    if report.image_bytes:
        came = f"{size(report.image_bytes)}: {size(report.bytes_fetched)} fetched"
        facts.append(("size", f"{came}, {size(report.bytes_reused)} of layers reused"))
    facts += [("warning", warning) for warning in report.warnings]
    lines = [f"{label + ':':<9} {value}" for label, value in facts if value]
    return [f"{report.reference}: {took}, {time(report.began)}", *lines]


def _layer(layer: api.LayerReport) -> str:
    text = f"{layer.digest[:19]}  {size(layer.size)}  {_SOURCES.get(layer.source, layer.source)}"
    seconds = sum(stage.seconds for stage in layer.stages if stage.name == "fetching")
    hosts = [
        f"{host} ({size(count)}{f', {size(int(count / seconds))}/s' if seconds else ''})"
        for host, count in sorted(layer.account.hosts.items())
        if count
    ]
    return f"{text} from {', '.join(hosts)}" if hosts else text


def _bars(stages: Iterable[api.Stage], whole: float) -> list[str]:
    return [
        f"  {stage.name:<27}{stage.seconds:>8.2f} s  |{bar(stage.began, stage.seconds, whole)}|"
        for stage in stages
    ]


def bar(began: float, seconds: float, whole: float) -> str:
    """A stretch of a whole time, at least one mark long."""
    scale = WIDTH / max(whole, 1e-9)
    start = min(int(began * scale), WIDTH - 1)
    end = min(max(round((began + seconds) * scale), start + 1), WIDTH)
    return f"{'':{start}}{'█' * (end - start)}{'':{WIDTH - end}}"


def _tried(account: api.Account) -> Sequence[str]:
    lines = [
        f"  failed: {each.host}: {each.outcome} ({each.seconds:.1f} s)" for each in account.failures
    ]
    more = account.failed - len(account.failures)
    return [*lines, f"  and {more} more failed requests"] if more > 0 else lines
