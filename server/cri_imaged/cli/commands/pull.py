"""`cri-imaged pull` and `pulls`."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import sys
from typing import Annotated

import grpc
import typer

from cri_imaged.cli.client import Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format, Handler, seconds
from cri_imaged.cli.output import Output, document, show, show_json
from cri_imaged.cli.progress import Display, display
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


def pull(
    image: Annotated[str, typer.Argument(help="[HOST/]NAME[:TAG|@DIGEST]")],
    creds: Annotated[
        str,
        typer.Option(
            metavar="USER[:PASS]",
            help="Credentials for the registry. Without PASS it is asked for, or read from "
            "standard input where that is no terminal; so it is in no list of processes.",
            show_default=False,
        ),
    ] = "",
    runtime_handler: Handler = "",
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="Give up after this; 0s: never.")
    ] = "0s",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Pull an image and print its ID. Progress goes to standard error.

    \b
    Examples:
      cri-imaged pull busybox
      cri-imaged pull registry.example/team/app@sha256:4b5c...
      cri-imaged pull --creds alice registry.example/team/app:v1
      cri-imaged pull --creds alice registry.example/team/app:v1 < password.txt
      id=$(cri-imaged pull -q --timeout 5m busybox)
    """
    request = api_pb2.PullImageRequest(
        image=api_pb2.ImageSpec(image=image, runtime_handler=runtime_handler)
    )
    if creds:
        request.auth.username, request.auth.password = credentials(creds)
    limit = seconds(timeout) or None
    image_id = call(address, lambda daemon: _pull(daemon, request, limit, quiet))
    if output is Output.JSON:
        show_json({"image": image, "id": image_id})
    else:
        show(image_id)


def credentials(creds: str) -> tuple[str, str]:
    """User and password of `USER[:PASS]`, asking for what is not there."""
    user, colon, password = creds.partition(":")
    if colon:
        return user, password
    if sys.stdin.isatty():
        return user, getpass.getpass(f"Password of {user}: ")
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Failure(
            ExitCode.USAGE, f"no password for {user}", "give USER:PASS, or PASS on standard input"
        )
    return user, line


async def _pull(
    daemon: Daemon, request: api_pb2.PullImageRequest, limit: float | None, quiet: bool
) -> str:
    if quiet:
        return (await daemon.images.PullImage(request, timeout=limit)).image_ref
    with display() as shown:
        watching = asyncio.create_task(_watch(daemon, request.image.image, shown))
        try:
            answer = await daemon.images.PullImage(request, timeout=limit)
        finally:
            watching.cancel()
            # Progress is a courtesy: whether the image is there is for PullImage to say.
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await watching
    return answer.image_ref


async def _watch(daemon: Daemon, reference: str, shown: Display) -> None:
    request = node_pb2.WatchPullsRequest(reference=reference)
    async for answer in daemon.node.WatchPulls(request):
        # The same image may be pulled for others too; ours is the newest.
        shown.show(answer.pulls[-1:])


def pulls(
    image: Annotated[str, typer.Argument(help="Watch only pulls of this image.")] = "",
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End as soon as no such pull runs.")
    ] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Watch the pulls that run now.

    Shows them whoever asked for them, until Ctrl-C. With `-o json` every state is one line.

    \b
    Examples:
      cri-imaged pulls
      cri-imaged pulls --until-idle busybox
      cri-imaged pulls -o json | jq -c '.pulls[] | [.reference, .phase, .bytes_fetched]'
    """
    request = node_pb2.WatchPullsRequest(reference=image, until_idle=until_idle)
    call(address, lambda daemon: _follow(daemon, request, output))


async def _follow(daemon: Daemon, request: node_pb2.WatchPullsRequest, output: Output) -> None:
    if output is Output.JSON:
        async for answer in daemon.node.WatchPulls(request):
            show_json(document(answer), line=True)
        return
    with display() as shown:
        async for answer in daemon.node.WatchPulls(request):
            shown.show(answer.pulls)
