"""`cri-imaged check`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, counted, document, show, show_json, size
from cri_imaged.cli.progress import bar
from cri_imaged.rpc.node.v1 import node_pb2


def check(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Rebuild what is damaged, and drop what cannot be: the next pull brings it anew.",
        ),
    ] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Verify the store: every blob and every snapshot.

    Reads all of it, while the daemon goes on serving. Every problem is a line. Ends with 0 only if
    nothing is wrong any more.

    \b
    Examples:
      cri-imaged check
      cri-imaged check --repair
      cri-imaged check -o json | jq '.problems[] | select(.repaired | not)'
    """
    request = node_pb2.CheckStoreRequest(repair=repair)
    problems, summary = call(address, lambda daemon: _check(daemon, request, output))
    if output is Output.JSON:
        show_json({"problems": [document(each) for each in problems], "summary": document(summary)})
    else:
        looked_at = (
            counted(summary.images, "image"),
            counted(summary.blobs, "blob"),
            counted(summary.snapshots, "snapshot"),
            size(summary.bytes),
        )
        found = counted(summary.problems, "problem")
        show(f"checked {', '.join(looked_at)}: {found}, {summary.repaired} repaired")
    if left := summary.problems - summary.repaired:
        raise Failure(
            ExitCode.FAILED,
            f"{counted(left, 'problem')} left in the store",
            "pull the images concerned again" if repair else "`cri-imaged check --repair`",
        )


async def _check(
    daemon: Daemon, request: node_pb2.CheckStoreRequest, output: Output
) -> tuple[list[node_pb2.CheckProblem], node_pb2.CheckSummary]:
    problems: list[node_pb2.CheckProblem] = []
    summary = node_pb2.CheckSummary()
    with bar() as move:
        async for answer in daemon.node.CheckStore(request):
            match answer.WhichOneof("event"):
                case "progress":
                    now = answer.progress
                    move(now.subject, now.bytes_checked, now.bytes_total)
                case "problem":
                    problems.append(answer.problem)
                    if output is Output.TEXT:
                        show(describe(answer.problem))
                case "summary":
                    summary = answer.summary
    return problems, summary


def describe(problem: node_pb2.CheckProblem) -> str:
    """One line on what is wrong, and with whose images."""
    line = f"{problem.kind}: {problem.subject}: {problem.description}"
    if problem.images:
        line += f" ({', '.join(problem.images)})"
    return f"{line}: repaired" if problem.repaired else line
