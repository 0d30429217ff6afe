"""The command line's entry point."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from cri_imaged import __version__
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.output import note, show
from cri_imaged.cli.table import Commands
from cri_imaged.errors import ConfigError

TRACEBACK = "CRI_IMAGED_TRACEBACK"
"""Set: a failure that nobody foresaw shows where it happened."""

# Plain help keeps the examples as they are written, and pipes well.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _version(wanted: bool) -> None:
    if wanted:
        show(f"cri-imaged {__version__}")
        raise typer.Exit


@app.callback()
def cri_imaged(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """A node's image daemon for Kubernetes (CRI v1), and the commands that talk to it.

    \b
    Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 not found, 4 daemon not reachable,
    5 denied, 6 registry unavailable, 7 timeout, 130 interrupted.

    \b
    Examples:
      cri-imaged serve
      cri-imaged pull busybox
      cri-imaged images
      cri-imaged COMMAND --help
    """


def main() -> NoReturn:
    """Run the command that the arguments name, and exit."""
    _open_standard_streams()
    try:
        try:
            app()
        finally:
            _flush()
    except BrokenPipeError:  # the reader has seen enough
        sys.exit(ExitCode.FAILED)
    except Failure as failure:
        _report(failure)
    except ConfigError as error:
        hint = "`cri-imaged config default` shows every key"
        _report(Failure(ExitCode.USAGE, str(error), hint))
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        _report(
            Failure(
                ExitCode.FAILED,
                f"unexpected {type(error).__name__}: {error}",
                f"please report it, with what {TRACEBACK}=1 shows",
            )
        )
    sys.exit(ExitCode.OK)


def _open_standard_streams() -> None:
    """Where the caller has closed some, a socket or the database would take their numbers, and be
    written to as if it was the log."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
        if number and getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _flush() -> None:
    """Write what is buffered now, while it can still be told that it failed."""
    try:
        sys.stdout.flush()
    except OSError:
        # Or the interpreter tries again as it ends, and complains itself.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _report(failure: Failure) -> NoReturn:
    for line in failure.message.splitlines() or [""]:
        note(f"cri-imaged: {line}")
    if failure.hint:
        note(f"cri-imaged: {failure.hint}")
    sys.exit(failure.code)
