"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.output import Output
from cri_imaged.durations import parse_duration

Address: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="CRI_IMAGED_ADDRESS",
        metavar="SOCKET",
        help="The daemon's Unix socket. Default: the system's, or this user's own.",
        show_default=False,
    ),
]
Format: TypeAlias = Annotated[
    Output, typer.Option("--output", "-o", help="text for people; json or yaml for programs.")
]
Handler: TypeAlias = Annotated[
    str,
    typer.Option(
        "--runtime-handler",
        metavar="NAME",
        help="The runtime handler that the image is for ([image.runtime_platforms]).",
        show_default=False,
    ),
]


def seconds(text: str) -> float:
    """A duration option's value. Raises `Failure` where it is malformed."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
