"""`cri-imaged status`."""

from __future__ import annotations

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import (
    Output,
    document,
    enum_name,
    note,
    show,
    show_columns,
    show_data,
    time,
)
from cri_imaged.rpc.node.v1 import runtimes_pb2, upkeep_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


def status(output: Format = Output.TEXT, address: Address = None) -> None:
    """Show the daemon, its runtimes, and what is preloaded.

    \b
    Examples:
      cri-imaged status
      cri-imaged status -o json | jq '.runtimes[] | select(.up | not)'
      cri-imaged status -o json | jq '.preloads[] | select(.problem != "")'
    """
    version, runtimes, preloads = call(address, _status)
    if output.structured:
        show_data({"version": version, **document(runtimes), **document(preloads)}, output)
        return
    show(f"cri-imaged {version} is running")
    _show_runtimes(runtimes)
    _show_preloads(preloads)


async def _status(
    daemon: Daemon,
) -> tuple[str, runtimes_pb2.ListRuntimesResponse, upkeep_pb2.ListPreloadsResponse]:
    version = await daemon.runtime.Version(api_pb2.VersionRequest(), timeout=ANSWER_SECONDS)
    runtimes = await daemon.runtimes.ListRuntimes(
        runtimes_pb2.ListRuntimesRequest(), timeout=ANSWER_SECONDS
    )
    preloads = await daemon.upkeep.ListPreloads(
        upkeep_pb2.ListPreloadsRequest(), timeout=ANSWER_SECONDS
    )
    return version.runtime_version, runtimes, preloads


def _show_runtimes(found: runtimes_pb2.ListRuntimesResponse) -> None:
    if not found.runtimes:
        show("no runtime runs its images; see `cri-imaged setup --help`")
        return
    show_columns(
        ("RUNTIME", "VERSION", "STATE", "SINCE", "OWED", "SNAPSHOTS"),
        [
            (
                each.name,
                each.version or "-",
                "up" if each.up else "down",
                time(each.since),
                str(each.owed),
                str(each.snapshots),
            )
            for each in found.runtimes
        ],
    )
    for each in found.runtimes:
        if each.problem:
            note(f"{each.name}: {each.problem}")


def _show_preloads(found: upkeep_pb2.ListPreloadsResponse) -> None:
    if found.preloads:
        show("")
        show_columns(
            ("PRELOAD", "STATE", "SINCE", "IMAGES"),
            [
                (
                    f"{each.name} ({each.runtime_handler})" if each.runtime_handler else each.name,
                    enum_name(upkeep_pb2.PreloadState.DESCRIPTOR, each.state),
                    time(each.since),
                    " ".join(each.images) or "-",
                )
                for each in found.preloads
            ],
        )
    for each in found.preloads:
        if each.problem:
            note(f"{each.name}: {each.problem}")
    if found.folder_problem:
        note(found.folder_problem)
