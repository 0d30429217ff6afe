"""`cri-imaged runtime`: the runtimes that run our images."""

from __future__ import annotations

import time as clock
from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, call
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import (
    Output,
    counted,
    document,
    show,
    show_columns,
    show_data,
    size,
)
from cri_imaged.rpc.node.v1 import runtimes_pb2 as api

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def runtime() -> None:
    """Show and forget what the runtimes of this node hold.

    \b
    Examples:
      cri-imaged runtime snapshots
      cri-imaged runtime forget containerd
    """


@app.command("snapshots")
def snapshots(output: Format = Output.TEXT, address: Address = None) -> None:
    """List what runtimes hold: layers, and what containers wrote.

    \b
    Examples:
      cri-imaged runtime snapshots
      cri-imaged runtime snapshots -o json | jq '.snapshots[] | select(.kind == "active")'
    """
    answer = call(
        address,
        lambda daemon: daemon.runtimes.ListRuntimeSnapshots(
            api.ListRuntimeSnapshotsRequest(), timeout=ANSWER_SECONDS
        ),
    )
    if output.structured:
        show_data(document(answer), output)
        return
    kinds = api.RuntimeSnapshotKind
    show_columns(
        ("RUNTIME", "SNAPSHOTTER", "KIND", "WRITTEN", "AGE", "NAME"),
        [
            (
                each.runtime,
                each.snapshotter,
                kinds.Name(each.kind).removeprefix("RUNTIME_SNAPSHOT_KIND_").lower(),
                size(each.bytes) if each.kind == api.RUNTIME_SNAPSHOT_KIND_ACTIVE else "-",
                f"{max(0, int(clock.time() - each.created_at / 1e9))} s",
                each.name,
            )
            for each in answer.snapshots
        ],
    )


@app.command("forget")
def forget(
    name: Annotated[str, typer.Argument(help="As `cri-imaged status` shows it.")],
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Give back the space of a runtime that is gone for good.

    All its containers' own files are deleted. The runtime must be stopped for good.

    \b
    Examples:
      cri-imaged runtime forget containerd
    """
    request = api.ForgetRuntimeRequest(name=name)
    answer = call(address, lambda daemon: daemon.runtimes.ForgetRuntime(request))
    if output.structured:
        show_data(document(answer), output)
    else:
        show(f"forgot {counted(answer.snapshots, 'snapshot')} of {name}")
