"""`cri-imaged events` and `explain`, and what `pulls` tells of the past."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.explain import explained
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import (
    Output,
    document,
    short_id,
    show,
    show_columns,
    show_data,
    size,
    time,
)
from cri_imaged.rpc.node.v1 import history_pb2 as api


def events(output: Format = Output.TEXT, address: Address = None) -> None:
    """Tell what happens to images and pulls, as it happens.

    Images that come, change and go, and pulls that begin and end, whoever asked for them, until
    Ctrl-C. With `-o json` each is one line. A reader that is too slow is told how many it missed.

    \b
    Examples:
      cri-imaged events
      cri-imaged events -o json | jq -c 'select(.pull_ended) | .pull_ended | [.reference, .outcome]'
    """
    call(address, lambda daemon: _watch(daemon, output))


async def _watch(daemon: Daemon, output: Output) -> None:
    async for message in daemon.history.WatchEvents(api.WatchEventsRequest()):
        kind = message.WhichOneof("event")
        if output.structured:
            told = document(getattr(message, kind)) if kind else None
            show_data({"time": message.time, **({kind: told} if kind else {})}, output, line=True)
        elif kind:
            show(f"{time(message.time)}  {_sentence(message, kind)}", flush=True)


def _sentence(message: api.WatchEventsResponse, kind: str) -> str:
    if kind == "missed":
        return f"missed {message.missed.events} events: this reader is too slow"
    if kind == "pull_began":
        return f"pull began     {message.pull_began.reference}"
    if kind == "pull_ended":
        report = message.pull_ended
        why = f" ({report.reason})" if report.reason else ""
        took = f"{report.seconds:.2f} s, {size(report.bytes_fetched)} fetched"
        return f"pull ended     {report.reference}  {report.outcome}{why}, {took}"
    image = getattr(message, kind)
    return f"{kind.replace('_', ' '):<14} {short_id(image.image_id)}  {' '.join(image.names)}"


def explain(
    image: Annotated[str, typer.Argument(help="A name of the image, or its ID.")],
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Show where the time of an image's last pull went.

    When the pull and each layer waited, were fetched (from where, how fast), unpacked and sealed;
    what had to be tried again, and what was here already. Reports are kept of the last thousand
    pulls.

    \b
    Examples:
      cri-imaged explain busybox
      cri-imaged explain -o json busybox | jq '.layers[] | [.digest, .stages]'
    """
    request = api.ListReportsRequest(image=image, limit=1)
    found = call(
        address, lambda daemon: daemon.history.ListReports(request, timeout=ANSWER_SECONDS)
    )
    if not found.reports:
        raise Failure(
            ExitCode.NOT_FOUND,
            f"no pull of {image} is known",
            "`cri-imaged pulls --last` lists those that are",
        )
    [report] = found.reports
    if output.structured:
        show_data(document(report), output)
        return
    for line in explained(report):
        show(line)


def show_counts(image: str, output: Output, address: str | None) -> None:
    """How often an image was pulled."""
    request = api.CountPullsRequest(image=image)
    found = call(address, lambda daemon: daemon.history.CountPulls(request, timeout=ANSWER_SECONDS))
    if not found.counts:
        raise Failure(ExitCode.NOT_FOUND, f"no pull of {image} is known")
    if output.structured:
        show_data(document(found), output)
        return
    show_columns(
        ("REFERENCE", "HANDLER", "IMAGE ID", "PULLS", "FETCHED", "BYTES", "FIRST", "LAST"),
        [
            (
                each.reference,
                each.runtime_handler,
                short_id(each.image_id) or "(failed)",
                str(each.pulls),
                str(each.fetched),
                size(each.bytes),
                time(each.first),
                time(each.last),
            )
            for each in found.counts
        ],
    )


def show_last(image: str, number: int, output: Output, address: str | None) -> None:
    """The last pulls, the newest first."""
    request = api.ListReportsRequest(image=image, limit=number)
    found = call(
        address, lambda daemon: daemon.history.ListReports(request, timeout=ANSWER_SECONDS)
    )
    if output.structured:
        show_data(document(found), output)
        return
    show_columns(
        ("BEGAN", "REFERENCE", "OUTCOME", "SECONDS", "FETCHED", "REUSED", "RETRIES", "POD"),
        [
            (
                time(each.began),
                each.reference,
                each.reason or each.outcome,
                f"{each.seconds:.2f}",
                size(each.bytes_fetched),
                size(each.bytes_reused),
                str(each.account.failed + sum(layer.account.failed for layer in each.layers)),
                each.pod,
            )
            for each in found.reports
        ],
    )
