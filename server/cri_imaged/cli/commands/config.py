"""`cri-imaged config`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.commands.migrate import migrate
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, document, show, show_columns, show_data
from cri_imaged.config import default_config, default_config_file, load_config
from cri_imaged.config.origins import settings
from cri_imaged.config.render import default_toml
from cri_imaged.errors import ConfigError
from cri_imaged.rpc.node.v1 import node_pb2

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command()(migrate)


@app.callback()
def config() -> None:
    """Show, check and reload the configuration.

    \b
    Examples:
      cri-imaged config show
      cri-imaged config reload
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
        if output.structured:
            _show(file, str(error).splitlines(), output)
        raise Failure(
            ExitCode.USAGE, str(error), "`cri-imaged config default` shows every key"
        ) from None
    if output.structured:
        _show(file, [], output)
    else:
        show(f"{file}: ok")


@app.command("show")
def show_settings(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A TOML file. Default: the one that `serve` reads.", show_default=False
        ),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Show every key, its value, and the file that it is from.

    That is what the files say now, and a daemon has since its start or its last reload. Secrets
    are not shown. Options of `serve` on its command line are not known here.

    \b
    Examples:
      cri-imaged config show
      cri-imaged config show -o json | jq '.settings[] | select(.file)'
    """
    privileged = os.geteuid() == 0
    if file is None and os.path.exists(default := default_config_file(privileged)):
        file = default
    found = settings(file, privileged=privileged)
    if output.structured:
        fields = [
            {"key": each.key, "value": each.value, "file": each.origin and str(each.origin)}
            for each in found
        ]
        show_data({"settings": fields}, output)
    else:
        show_columns(
            ("KEY", "VALUE", "FROM"),
            [(each.key, each.value, str(each.origin or "default")) for each in found],
        )


@app.command()
def reload(output: Format = Output.TEXT, address: Address = None) -> None:
    """Have the daemon read its configuration again.

    What can change while it runs does: the log's level, pinned images, registries and their
    logins, verification, limits, caps, and which images come and go by themselves. What takes a
    restart is named. A wrong configuration changes nothing.

    \b
    Examples:
      cri-imaged config reload
    """
    answer = call(address, _reload)
    if output.structured:
        show_data(document(answer), output)
        return
    for key in answer.changed:
        show(f"{key}: changed")
    for key in answer.needs_restart:
        show(f"{key}: changes with a restart of the daemon")
    if not answer.changed and not answer.needs_restart:
        show("nothing has changed")


async def _reload(daemon: Daemon) -> node_pb2.ReloadConfigResponse:
    return await daemon.node.ReloadConfig(node_pb2.ReloadConfigRequest(), timeout=ANSWER_SECONDS)


def _show(file: Path, problems: list[str], output: Output) -> None:
    prefix = f"{file}: "
    show_data(
        {
            "file": str(file),
            "ok": not problems,
            "problems": [problem.removeprefix(prefix) for problem in problems],
        },
        output,
    )
