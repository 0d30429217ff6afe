"""`cri-imaged tag`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, call
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

    If the name meant another image, it is moved. Nothing is sent to a registry. `rm` removes an
    image with all its names.

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
