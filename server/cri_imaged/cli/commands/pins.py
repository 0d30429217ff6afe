"""`cri-imaged pin` and `unpin`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.options import Address, Handler
from cri_imaged.cli.output import show
from cri_imaged.rpc.node.v1 import node_pb2

Names = Annotated[
    list[str], typer.Argument(help="Names, or full or truncated IDs.", metavar="NAME...")
]


def pin(names: Names, runtime_handler: Handler = "", address: Address = None) -> None:
    """Keep images from the kubelet's garbage collection.

    A pin by a name outlasts removals, pulls that move the tag, and restarts. Whoever asks for an
    image to be removed by name removes it all the same.

    \b
    Examples:
      cri-imaged pin busybox
      cri-imaged pin 9f27bd
    """

    async def run(daemon: Daemon) -> None:
        for name in names:
            request = node_pb2.PinImageRequest(image=name, runtime_handler=runtime_handler)
            pinned = await daemon.node.PinImage(request, timeout=ANSWER_SECONDS)
            show(f"pinned {pinned.image_id}")

    call(address, run)


def unpin(names: Names, runtime_handler: Handler = "", address: Address = None) -> None:
    """Let the kubelet's garbage collection have images again.

    All pins of an image go, by whichever of its names they are. What the configuration pins
    (image.pinned_images) stays pinned.

    \b
    Examples:
      cri-imaged unpin busybox
    """

    async def run(daemon: Daemon) -> None:
        for name in names:
            request = node_pb2.UnpinImageRequest(image=name, runtime_handler=runtime_handler)
            await daemon.node.UnpinImage(request, timeout=ANSWER_SECONDS)
            show(f"unpinned {name}")

    call(address, run)
