"""`cri-imaged pull` and `pulls`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from cri_imaged.cli.client import Daemon, call
from cri_imaged.cli.commands.history import show_counts, show_last
from cri_imaged.cli.options import Address, Format, Handler, seconds
from cri_imaged.cli.output import Output, document, show, show_data
from cri_imaged.cli.passwords import credentials
from cri_imaged.cli.progress import display
from cri_imaged.cli.pulling import Pulling, Wanted
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2

Creds: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="USER[:PASS]",
        help="Credentials for the registry. Without PASS it is asked for, or read from "
        "standard input where that is no terminal; so it is in no list of processes.",
        show_default=False,
    ),
]
ForPlatform: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="OS/ARCH[/VARIANT]",
        help="Pull for another platform. The name means that image then, also for the kubelet.",
        show_default=False,
    ),
]


def pull(
    images: Annotated[
        list[str], typer.Argument(help="[HOST/]NAME[:TAG|@DIGEST]", metavar="IMAGE...")
    ],
    creds: Creds = "",
    platform: ForPlatform = "",
    all_tags: Annotated[
        bool, typer.Option("--all-tags", "-a", help="Pull every tag of the repositories.")
    ] = False,
    runtime_handler: Handler = "",
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="Give up each image after this; 0s: never.")
    ] = "0s",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Pull images and print their IDs. Progress goes to standard error.

    Of several, one that fails does not keep the others from being pulled; the first failure is the
    command's.

    \b
    Examples:
      cri-imaged pull busybox
      cri-imaged pull busybox alpine:3
      cri-imaged pull --all-tags registry.example/team/app
      cri-imaged pull --platform linux/arm64 busybox
      cri-imaged pull --creds alice registry.example/team/app:v1 < password.txt
      id=$(cri-imaged pull -q --timeout 5m busybox)
    """
    auth = None
    if creds:
        user, password = credentials(creds)
        auth = api_pb2.AuthConfig(username=user, password=password)
    wanted = Wanted(auth, runtime_handler, platform, seconds(timeout) or None, quiet)
    pulled: list[dict[str, str]] = []

    async def run(daemon: Daemon) -> None:
        async for image, image_id in Pulling(daemon, wanted).run(images, all_tags=all_tags):
            pulled.append({"image": image, "id": image_id})
            if not output.structured:
                show(image_id, flush=True)

    several = all_tags or len(images) > 1
    try:
        call(address, run)
    finally:
        if output.structured and (several or pulled):
            show_data(pulled if several else pulled[0], output)


def pulls(
    image: Annotated[str, typer.Argument(help="Watch only pulls of this image.")] = "",
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End as soon as no such pull runs.")
    ] = False,
    of: Annotated[
        str, typer.Option("--of", metavar="IMAGE", help="Tell how often IMAGE was pulled, instead.")
    ] = "",
    last: Annotated[bool, typer.Option("--last", help="List the last pulls, instead.")] = False,
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, help="How many with --last.")
    ] = 20,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Watch the pulls that run now, or tell of those that are over.

    Shows them whoever asked for them, until Ctrl-C. With `-o json` every state is one line. What is
    told of the past survives restarts; failed pulls are counted apart.

    \b
    Examples:
      cri-imaged pulls
      cri-imaged pulls --last
      cri-imaged pulls --of busybox
      cri-imaged pulls --until-idle busybox
      cri-imaged pulls -o json | jq -c '.pulls[] | [.reference, .phase, .bytes_fetched]'
    """
    if of:
        show_counts(of, output, address)
        return
    if last:
        show_last(image, number, output, address)
        return
    request = node_pb2.WatchPullsRequest(reference=image, until_idle=until_idle)
    call(address, lambda daemon: _follow(daemon, request, output))


async def _follow(daemon: Daemon, request: node_pb2.WatchPullsRequest, output: Output) -> None:
    if output.structured:
        async for answer in daemon.node.WatchPulls(request):
            show_data(document(answer), output, line=True)
        return
    with display() as shown:
        async for answer in daemon.node.WatchPulls(request):
            shown.show(answer.pulls)
