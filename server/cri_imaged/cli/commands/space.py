"""`cri-imaged fs`."""

from __future__ import annotations

import os

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, document, show, show_columns, show_data, size, time
from cri_imaged.rpc.node.v1 import runtimes_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


def fs(output: Format = Output.TEXT, address: Address = None) -> None:
    """Show the disk space that images and containers take.

    There is a line for each snapshotter, the default one first. The first line includes the
    compressed blobs. Below is a line for each container that runs from our snapshots.

    \b
    Examples:
      cri-imaged fs
      cri-imaged fs -o json | jq '.image_filesystems[0].used_bytes'
    """
    answer, containers = call(address, _space)
    if output.structured:
        show_data(
            {**document(answer), "containers": [document(each) for each in containers]}, output
        )
        return
    show_columns(
        ("DIRECTORY", "USED", "FREE", "CAPACITY", "INODES", "MEASURED"),
        [
            (
                entry.fs_id.mountpoint,
                size(entry.used_bytes.value),
                *_volume(entry.fs_id.mountpoint),
                str(entry.inodes_used.value),
                time(entry.timestamp),
            )
            for entry in answer.image_filesystems
        ],
    )
    if containers:
        show("")
        show_columns(
            ("RUNTIME", "CONTAINER", "WRITTEN", "INODES"),
            [(each.runtime, each.name, size(each.bytes), str(each.inodes)) for each in containers],
        )


async def _space(
    daemon: Daemon,
) -> tuple[api_pb2.ImageFsInfoResponse, list[runtimes_pb2.RuntimeSnapshot]]:
    """What images take, and each container, largest first."""
    info = await daemon.images.ImageFsInfo(api_pb2.ImageFsInfoRequest(), timeout=ANSWER_SECONDS)
    held = await daemon.runtimes.ListRuntimeSnapshots(
        runtimes_pb2.ListRuntimeSnapshotsRequest(), timeout=ANSWER_SECONDS
    )
    writing = [
        each for each in held.snapshots if each.kind == runtimes_pb2.RUNTIME_SNAPSHOT_KIND_ACTIVE
    ]
    return info, sorted(writing, key=lambda each: each.bytes, reverse=True)


def _volume(directory: str) -> tuple[str, str]:
    """What is free and what there is in all on the directory's file system."""
    try:
        volume = os.statvfs(directory)
    except OSError:  # root's, and this user may not look
        return "", ""
    return size(volume.f_bavail * volume.f_frsize), size(volume.f_blocks * volume.f_frsize)
