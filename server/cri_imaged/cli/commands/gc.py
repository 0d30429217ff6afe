"""`cri-imaged gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import call
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, counted, document, show, show_json, size
from cri_imaged.rpc.node.v1 import node_pb2


def gc(
    resumable: Annotated[
        bool,
        typer.Option("--resumable", help="Also drop what unfinished pulls left to be resumed."),
    ] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Remove what nothing needs any more.

    That is, what no image, no mount and no running pull needs. The daemon does this by itself in
    the background; this command waits until the disk space is back. It never removes an image.

    \b
    Examples:
      cri-imaged gc
      cri-imaged gc --resumable
    """
    request = node_pb2.CollectGarbageRequest(resumable=resumable)
    freed = call(address, lambda daemon: daemon.node.CollectGarbage(request))
    if output is Output.JSON:
        show_json(document(freed))
    else:
        blobs, snapshots = counted(freed.blobs, "blob"), counted(freed.snapshots, "snapshot")
        show(f"freed {size(freed.bytes)}: {blobs}, {snapshots}")
