"""`cri-imaged check`."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cri_imaged.cli.client import call
from cri_imaged.cli.commands.serve import read_settings
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, counted, document, show, show_data, size
from cri_imaged.cli.progress import bar
from cri_imaged.config import Config
from cri_imaged.errors import ConfigError
from cri_imaged.rpc.node.v1 import node_pb2

Result: TypeAlias = tuple[list[node_pb2.CheckProblem], node_pb2.CheckSummary]


def check(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Rebuild what is damaged, and drop what cannot be: the next pull brings it anew.",
        ),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Check while no daemon runs; takes the store's lock."),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --offline: the daemon's configuration.", show_default=False
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="With --offline: the store.", show_default=False),
    ] = None,
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
      cri-imaged check --offline --root /var/lib/cri-imaged
      cri-imaged check -o json | jq '.problems[] | select(.repaired | not)'
    """
    if offline:
        problems, summary = _check_offline(
            read_settings(config, {"root": root}), repair=repair, output=output
        )
    elif config or root:
        raise typer.BadParameter("--config and --root go with --offline")
    else:
        request = node_pb2.CheckStoreRequest(repair=repair)
        problems, summary = call(
            address, lambda daemon: _follow(daemon.node.CheckStore(request), output)
        )
    _show_result(problems, summary, output)
    if left := summary.problems - summary.repaired:
        raise Failure(
            ExitCode.FAILED,
            f"{counted(left, 'problem')} left in the store",
            "pull the images concerned again" if repair else "`cri-imaged check --repair`",
        )


def _show_result(
    problems: list[node_pb2.CheckProblem], summary: node_pb2.CheckSummary, output: Output
) -> None:
    if output.structured:
        show_data(
            {"problems": [document(each) for each in problems], "summary": document(summary)},
            output,
        )
    else:
        looked_at = (
            counted(summary.images, "image"),
            counted(summary.blobs, "blob"),
            counted(summary.snapshots, "snapshot"),
            size(summary.bytes),
        )
        found = counted(summary.problems, "problem")
        show(f"checked {', '.join(looked_at)}: {found}, {summary.repaired} repaired")


def _check_offline(config: Config, *, repair: bool, output: Output) -> Result:
    import asyncio

    from cri_imaged import daemon
    from cri_imaged.obs.log import configure

    configure("warn", "console")
    try:
        return asyncio.run(_follow(daemon.check(config, repair=repair), output))
    except ConfigError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None


async def _follow(answers: AsyncIterable[node_pb2.CheckStoreResponse], output: Output) -> Result:
    problems: list[node_pb2.CheckProblem] = []
    summary = node_pb2.CheckSummary()
    with bar() as move:
        async for answer in answers:
            match answer.WhichOneof("event"):
                case "progress":
                    now = answer.progress
                    move(now.subject, now.bytes_checked, now.bytes_total)
                case "problem":
                    problems.append(answer.problem)
                    if not output.structured:
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
