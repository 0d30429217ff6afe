"""`cri-imaged config`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Format
from cri_imaged.cli.output import Output, show, show_json
from cri_imaged.config import default_config, load_config
from cri_imaged.config.render import default_toml
from cri_imaged.errors import ConfigError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def config() -> None:
    """Show the default configuration, or check one.

    \b
    Examples:
      cri-imaged config default > config.toml
      cri-imaged config check config.toml
    """


@app.command()
def default() -> None:
    """Print the defaults as a commented TOML file.

    They are those of the user who asks: root's are the system's folders.

    \b
    Examples:
      cri-imaged config default
      sudo cri-imaged config default | sudo tee /etc/cri-imaged/config.toml
    """
    sys.stdout.write(default_toml(default_config(privileged=os.geteuid() == 0)))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A TOML file.", show_default=False)],
    output: Format = Output.TEXT,
) -> None:
    """Check a configuration file.

    Nothing is started. Every problem gets a line that names the key.

    \b
    Examples:
      cri-imaged config check /etc/cri-imaged/config.toml
      cri-imaged config check -o json config.toml | jq .problems
    """
    try:
        load_config(file, privileged=os.geteuid() == 0)
    except ConfigError as error:
        if output is Output.JSON:
            _show(file, str(error).splitlines())
        raise Failure(
            ExitCode.USAGE, str(error), "`cri-imaged config default` shows every key"
        ) from None
    if output is Output.JSON:
        _show(file, [])
    else:
        show(f"{file}: ok")


def _show(file: Path, problems: list[str]) -> None:
    prefix = f"{file}: "
    show_json(
        {
            "file": str(file),
            "ok": not problems,
            "problems": [problem.removeprefix(prefix) for problem in problems],
        }
    )
