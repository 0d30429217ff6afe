"""`cri-imaged gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from cri_imaged.cli.client import Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import (
    Output,
    counted,
    document,
    note,
    show,
    show_columns,
    show_data,
    size,
    time,
)
from cri_imaged.rpc.node.v1 import node_pb2, upkeep_pb2


def gc(
    resumable: Annotated[
        bool,
        typer.Option("--resumable", help="Also drop what unfinished pulls left to be resumed."),
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help="Also remove the images that go by [image.gc].")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --images: show which would go, and remove nothing."),
    ] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Remove what nothing needs any more.

    That is, what no image, no mount and no running pull needs. The daemon does this by itself in
    the background; this command waits until the disk space is back. Images are removed with
    --images alone, by the age and size that [image.gc] in the configuration allows; never one that
    is pinned, mounted, or under a container.

    \b
    Examples:
      cri-imaged gc
      cri-imaged gc --resumable
      cri-imaged gc --images --dry-run
    """
    if dry_run and not images:
        raise Failure(ExitCode.USAGE, "--dry-run goes with --images")

    async def collect(
        daemon: Daemon,
    ) -> tuple[upkeep_pb2.CollectImagesResponse, node_pb2.CollectGarbageResponse | None]:
        removed = upkeep_pb2.CollectImagesResponse()
        if images:
            request = upkeep_pb2.CollectImagesRequest(dry_run=dry_run)
            removed = await daemon.upkeep.CollectImages(request)
        if dry_run:
            return removed, None
        garbage = node_pb2.CollectGarbageRequest(resumable=resumable)
        return removed, await daemon.node.CollectGarbage(garbage)

    removed, freed = call(address, collect)
    if output.structured:
        parts = [*([document(removed)] if images else []), *([document(freed)] if freed else [])]
        show_data({key: value for part in parts for key, value in part.items()}, output)
        return
    if images:
        _show_removals(removed, dry_run=dry_run)
    if freed is not None:
        blobs, snapshots = counted(freed.blobs, "blob"), counted(freed.snapshots, "snapshot")
        show(f"freed {size(freed.bytes)}: {blobs}, {snapshots}")


def _show_removals(removed: upkeep_pb2.CollectImagesResponse, *, dry_run: bool) -> None:
    if removed.removals:
        show_columns(
            ("IMAGE", "LAST USED", "REASON", "FREES"),
            [
                (
                    (*each.names, each.image_id)[0],
                    time(each.last_used),
                    each.reason,
                    size(each.bytes),
                )
                for each in removed.removals
            ],
        )
    total = size(sum(each.bytes for each in removed.removals))
    count = counted(len(removed.removals), "image")
    show(f"{count} would go: {total}" if dry_run else f"removed {count}: {total}")
    if not removed.enabled:
        note("no image goes by itself: neither image.gc.max_age nor image.gc.max_bytes is set")
