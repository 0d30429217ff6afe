"""`cri-imaged doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cri_imaged.cli import containerd_diagnosis, diagnosis
from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.diagnosis import Finding
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import Output, counted, show, show_data
from cri_imaged.config import Config, default_config_file, load_config
from cri_imaged.rpc.node.v1 import runtimes_pb2, upkeep_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The daemon's configuration file.")
    ] = None,
    root: Annotated[
        Path, typer.Option("--root", help="Where other programs' file system begins.")
    ] = Path("/"),
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Find what is wrong on this node, and say what to do.

    \b
    Examples:
      cri-imaged doctor
      cri-imaged doctor -o json | jq -r '.findings[].remedy'
    """
    privileged = os.geteuid() == 0
    file = config or default_config_file(privileged)
    loaded = load_config(file if file.exists() else None, privileged=privileged)
    findings = [*_of_daemon(loaded, address or str(loaded.grpc.address))]
    for found in (
        containerd_diagnosis.of_containerd(loaded, root),
        diagnosis.of_kubelet(loaded, root),
        diagnosis.of_units(root),
        diagnosis.of_disk(loaded),
        diagnosis.of_programs(loaded),
        diagnosis.of_clock(),
        diagnosis.of_names(loaded),
        diagnosis.of_hosts(loaded),
        diagnosis.of_credential_providers(loaded),
    ):
        findings += found
    if output.structured:
        show_data(
            {"findings": [{"what": each.what, "remedy": each.remedy} for each in findings]}, output
        )
    else:
        for each in findings:
            show(f"- {each.what}")
            show(f"  remedy: {each.remedy}")
        show(f"{counted(len(findings), 'finding')}" if findings else "nothing is wrong")
    if findings:
        raise typer.Exit(ExitCode.FAILED)


def _of_daemon(config: Config, address: str) -> list[Finding]:
    try:
        runtimes, preloads, tags = call(address, _ask)
    except Failure as failure:
        return [Finding(failure.message, failure.hint or "see the daemon's log")]
    return [
        *diagnosis.of_runtimes(config, runtimes),
        *diagnosis.of_images(config, tags),
        *diagnosis.of_preloads(preloads),
    ]


async def _ask(
    daemon: Daemon,
) -> tuple[runtimes_pb2.ListRuntimesResponse, upkeep_pb2.ListPreloadsResponse, set[str]]:
    runtimes = await daemon.runtimes.ListRuntimes(
        runtimes_pb2.ListRuntimesRequest(), timeout=ANSWER_SECONDS
    )
    preloads = await daemon.upkeep.ListPreloads(
        upkeep_pb2.ListPreloadsRequest(), timeout=ANSWER_SECONDS
    )
    listed = await daemon.images.ListImages(api_pb2.ListImagesRequest(), timeout=ANSWER_SECONDS)
    return runtimes, preloads, {tag for image in listed.images for tag in image.repo_tags}
