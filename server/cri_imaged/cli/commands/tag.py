"""`cri-imaged tag` and `untag`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, document, show, show_data
from cri_imaged.rpc.node.v1 import catalog_pb2


def tag(
    image: Annotated[str, typer.Argument(help="A name, or a full or truncated ID.")],
    name: Annotated[str, typer.Argument(help="The new name: [HOST/]NAME[:TAG].")],
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Give an image one more name.

    If the name meant another image, it is moved. Nothing is sent to a registry. `untag` takes the
    name away again.

    \b
    Examples:
      cri-imaged tag busybox registry.example/tools/busybox:stable
      cri-imaged tag 9f27bd app:v1
    """
    request = catalog_pb2.TagImageRequest(image=image, tag=name, runtime_handler=runtime_handler)
    tagged = call(address, lambda daemon: daemon.catalog.TagImage(request, timeout=ANSWER_SECONDS))
    if output.structured:
        show_data(document(tagged), output)
    else:
        show(f"{tagged.tag} is {tagged.image_id}")


def untag(
    names: Annotated[list[str], typer.Argument(help="Tags: [HOST/]NAME[:TAG].", metavar="NAME...")],
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Take names from images, which stay.

    An image without a tag is still found by its ID and digest. `rm` removes images with all their
    names.

    \b
    Examples:
      cri-imaged untag registry.example/tools/busybox:stable
    """
    untagged: list[catalog_pb2.UntagImageResponse] = []

    async def run(daemon: Daemon) -> None:
        for name in names:
            request = catalog_pb2.UntagImageRequest(tag=name, runtime_handler=runtime_handler)
            untagged.append(await daemon.catalog.UntagImage(request, timeout=ANSWER_SECONDS))
            if not output.structured:
                show(f"{untagged[-1].tag} was {untagged[-1].image_id}")

    try:
        call(address, run)
    finally:
        if output.structured:
            show_data({"untagged": [document(each) for each in untagged]}, output)
