"""`cri-imaged login` and `logout`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cri_imaged.cli import logins
from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, note, show, show_data
from cri_imaged.cli.passwords import password_of
from cri_imaged.oci.authority import canonical_authority
from cri_imaged.rpc.node.v1 import registries_pb2 as api
from cri_imaged.rpc.runtime.v1 import api_pb2

Registry: TypeAlias = Annotated[str, typer.Argument(help="HOST[:PORT].", metavar="REGISTRY")]


def login(
    registry: Registry = "docker.io",
    user: Annotated[
        str, typer.Option("--username", "-u", metavar="USER", help="Asked for where it is missing.")
    ] = "",
    from_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read the password from standard input. Without, a terminal is asked for it.",
        ),
    ] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Log the node in to a registry, for all that is pulled from it.

    The registry is shown the login first. It is kept in the file that the daemon reads
    (image.registry.docker_config), which only its owner may read; the next pull uses it. What a
    client gives with a pull, as the kubelet does with pull secrets, counts more.

    \b
    Examples:
      cri-imaged login -u alice registry.example
      cri-imaged login -u alice --password-stdin registry.example < password.txt
    """
    if not user and not from_stdin and sys.stdin.isatty():
        user = typer.prompt("User")
    if not user:
        raise Failure(ExitCode.USAGE, "no user", "name one with --username")
    registry = canonical_authority(registry)
    password = password_of(user, ask=not from_stdin)
    auth = api_pb2.AuthConfig(username=user, password=password)

    async def check(daemon: Daemon) -> tuple[Path, bool]:
        file = await _file(daemon)
        request = api.CheckLoginRequest(registry=registry, auth=auth)
        return file, (await daemon.registries.CheckLogin(request)).asked

    file, asked = call(address, check)
    logins.add(file, registry, user, password)
    if not asked:
        note(f"warning: {registry} asks nobody to log in; whether it knows {user} is not known")
    if output.structured:
        show_data({"registry": registry, "user": user, "file": str(file)}, output)
    else:
        show(f"{user} is logged in to {registry}, by {file}")


def logout(
    registry: Registry = "docker.io",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Forget the node's login to a registry.

    Images that it has pulled stay.

    \b
    Examples:
      cri-imaged logout registry.example
    """
    file = call(address, _file)
    found = logins.remove(file, registry)
    if output.structured:
        show_data({"registry": registry, "file": str(file), "removed": found}, output)
    else:
        show(f"logged out of {registry}" if found else f"{file} has no login to {registry}")


async def _file(daemon: Daemon) -> Path:
    answer = await daemon.registries.GetLoginFile(api.GetLoginFileRequest(), timeout=ANSWER_SECONDS)
    if not answer.path:
        raise Failure(
            ExitCode.USAGE,
            "the daemon reads no file of logins",
            "name one in image.registry.docker_config",
        )
    return Path(answer.path)
