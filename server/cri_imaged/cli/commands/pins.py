"""`cri-imaged pin` and `unpin`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, show, show_data
from cri_imaged.rpc.node.v1 import node_pb2

Names = Annotated[
    list[str], typer.Argument(help="Names, or full or truncated IDs.", metavar="NAME...")
]


def pin(
    names: Names,
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Keep images from the kubelet's garbage collection.

    A pin by a name outlasts removals, pulls that move the tag, and restarts. Whoever asks for an
    image to be removed by name removes it all the same.

    \b
    Examples:
      cri-imaged pin busybox
      cri-imaged pin 9f27bd
    """

    async def one(daemon: Daemon, name: str) -> str:
        request = node_pb2.PinImageRequest(image=name, runtime_handler=runtime_handler)
        return (await daemon.node.PinImage(request, timeout=ANSWER_SECONDS)).image_id

    _each(names, "pinned", one, output, address)


def unpin(
    names: Names,
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Let the kubelet's garbage collection have images again.

    All pins of an image go, by whichever of its names they are. What the configuration pins
    (image.pinned_images) stays pinned.

    \b
    Examples:
      cri-imaged unpin busybox
    """

    async def one(daemon: Daemon, name: str) -> str:
        request = node_pb2.UnpinImageRequest(image=name, runtime_handler=runtime_handler)
        await daemon.node.UnpinImage(request, timeout=ANSWER_SECONDS)
        return name

    _each(names, "unpinned", one, output, address)


def _each(
    names: list[str],
    what: str,
    one: Callable[[Daemon, str], Awaitable[str]],
    output: Output,
    address: str | None,
) -> None:
    """Do `one` for each name; what it gives is told as it is done, also where a later one fails."""
    done: list[str] = []

    async def run(daemon: Daemon) -> None:
        for name in names:
            done.append(await one(daemon, name))
            if not output.structured:
                show(f"{what} {done[-1]}")

    try:
        call(address, run)
    finally:
        if output.structured:
            show_data({what: done}, output)
