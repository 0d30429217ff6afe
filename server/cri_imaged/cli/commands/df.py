"""`cri-imaged df`."""

from __future__ import annotations

from cri_imaged.cli.client import Daemon, call
from cri_imaged.cli.image_list import NONE, Descriptions, described, key_of, listed
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, short_id, show, show_columns, show_data, size
from cri_imaged.rpc.runtime.v1 import api_pb2


def df(output: Format = Output.TEXT, address: Address = None) -> None:
    """Show what each image takes on the disk, the largest first.

    That is its compressed blobs and its unpacked layers. UNIQUE is what its removal would give
    back; SHARED is what other images need too.

    \b
    Examples:
      cri-imaged df
      cri-imaged df -o json | jq '[.images[].unique_bytes] | add'
    """
    images, found = call(address, _ask)
    taken = sorted(
        ((image, found[key_of(image)]) for image in images if key_of(image) in found),
        key=lambda each: each[1].bytes,
        reverse=True,
    )
    if output.structured:
        fields = [
            {
                "id": image.id,
                "runtime_handler": image.spec.runtime_handler,
                "repo_tags": list(image.repo_tags),
                "bytes": share.bytes,
                "unique_bytes": share.unique_bytes,
            }
            for image, share in taken
        ]
        show_data({"images": fields}, output)
        return
    show_columns(
        ("IMAGE", "IMAGE ID", "ON DISK", "UNIQUE", "SHARED"),
        [
            (
                next(iter(image.repo_tags or image.repo_digests), NONE),
                short_id(image.id),
                size(share.bytes),
                size(share.unique_bytes),
                size(share.bytes - share.unique_bytes),
            )
            for image, share in taken
        ],
    )
    show()
    show("`cri-imaged fs` shows all that is taken, and what is free")


async def _ask(daemon: Daemon) -> tuple[list[api_pb2.Image], Descriptions]:
    return await listed(daemon), await described(daemon, sizes=True)
