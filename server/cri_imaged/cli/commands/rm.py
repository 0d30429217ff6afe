"""`cri-imaged rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.commands.inspect import holders_of, status_of
from cri_imaged.cli.failure import Failure
from cri_imaged.cli.image_list import listed
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, note, show, show_data
from cri_imaged.rpc.runtime.v1 import api_pb2


def rm(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names, or full or truncated IDs.", metavar="NAME...", show_default=False
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Remove every image that is not pinned.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Do not fail for names that are not there.")
    ] = False,
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Remove images, each with all its names.

    An image that is mounted disappears from the list at once; its disk space comes back when it is
    unmounted. `untag` takes names alone, and leaves the images.

    \b
    Examples:
      cri-imaged rm busybox
      cri-imaged rm --all
    """
    if every == bool(names):
        raise typer.BadParameter("give names, or --all")
    removed: list[str] = []
    try:
        specs = [
            api_pb2.ImageSpec(image=name, runtime_handler=runtime_handler) for name in names or ()
        ]
        absent = call(address, lambda daemon: _remove(daemon, specs, output, removed))
    finally:
        if output.structured:
            show_data({"removed": removed}, output)
    if absent and force:
        note(f"cri-imaged: {absent.message}")
    elif absent:
        raise absent


async def _remove(
    daemon: Daemon, specs: list[api_pb2.ImageSpec], output: Output, removed: list[str]
) -> Failure | None:
    """Remove what is there; `removed` gets their IDs. Returns what is to be told of the first name
    that is not."""
    absent: Failure | None = None
    every = () if specs else await listed(daemon)
    for spec in specs or [_spec_of(image) for image in every if not image.pinned]:
        try:
            status = await status_of(daemon, spec)
        except Failure as failure:
            absent = absent or failure
            continue
        image = status.image
        holders = await holders_of(daemon, spec)
        request = api_pb2.RemoveImageRequest(image=_spec_of(image))
        await daemon.images.RemoveImage(request, timeout=ANSWER_SECONDS)
        removed.append(image.id)
        if not output.structured:
            show(f"removed {image.id}")
        for holder in holders:
            note(f"its layers stay until this ends: {holder}")
    return absent


def _spec_of(image: api_pb2.Image) -> api_pb2.ImageSpec:
    """What means this image alone: others of its ID may be there for other handlers."""
    return api_pb2.ImageSpec(image=image.id, runtime_handler=image.spec.runtime_handler)
