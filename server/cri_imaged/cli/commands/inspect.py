"""`cri-imaged inspect`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import grpc
import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.image_fields import FIELDS, fields_of
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import (
    Output,
    document,
    show,
    show_data,
    show_escaped,
    size,
)
from cri_imaged.cli.pull_counts import counts_of, pull_counts, sentences
from cri_imaged.cli.templates import Template
from cri_imaged.obs.terminal import escaped
from cri_imaged.rpc.node.v1 import history_pb2, runtimes_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


def inspect(
    names: Annotated[
        list[str], typer.Argument(help="Names, or full or truncated IDs.", metavar="NAME...")
    ],
    template: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="TEMPLATE",
            help="A line for each image, as for docker: {{.Id}}, {{.RepoTags}}, "
            "{{.Config.Entrypoint}} and so on; what is no text, as JSON.",
            show_default=False,
        ),
    ] = "",
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Show all that is known about an image.

    With `-o json`, several names give a list.

    \b
    Examples:
      cri-imaged inspect busybox
      cri-imaged inspect 9f27bd busybox
      cri-imaged inspect --format '{{.Architecture}} {{json .Config.Labels}}' busybox
      cri-imaged inspect -o json busybox | jq .info.info.imageSpec.config.Cmd
    """
    line = Template(template, FIELDS) if template else None
    specs = [api_pb2.ImageSpec(image=name, runtime_handler=runtime_handler) for name in names]
    found = call(address, lambda daemon: _inspect(daemon, specs))
    if output.structured:
        shown = [
            {
                "image": document(answer.image),
                "info": _info(answer),
                "containers": holders,
                "pulls": [document(each) for each in pulls],
            }
            for answer, holders, pulls in found
        ]
        show_data(shown if len(names) > 1 else shown[0], output)
        return
    if line:
        for answer, _, _ in found:
            show_escaped(line.render(_fields(answer)))
        return
    for number, (answer, holders, pulls) in enumerate(found):
        if number:
            show()
        lines = _description(answer.image, _info(answer))
        lines += [("pulled", each) for each in sentences(pulls)]
        for label, value in [*lines, *(("container", each) for each in holders)]:
            show(f"{label + ':':<13} {value}")


def _fields(answer: api_pb2.ImageStatusResponse) -> dict[str, Any]:
    facts = _info(answer).get("info")
    spec = facts.get("imageSpec") if isinstance(facts, dict) else None
    fields = fields_of(answer.image, spec if isinstance(spec, dict) else {})
    return {key: escaped(each) if isinstance(each, str) else each for key, each in fields.items()}


def _info(answer: api_pb2.ImageStatusResponse) -> dict[str, Any]:
    return {key: _parsed(value) for key, value in sorted(answer.info.items())}


async def _inspect(
    daemon: Daemon, specs: list[api_pb2.ImageSpec]
) -> list[tuple[api_pb2.ImageStatusResponse, list[str], list[history_pb2.PullCount]]]:
    found = []
    for spec in specs:
        answer = await status_of(daemon, spec, verbose=True)
        pulls = counts_of(answer.image, await pull_counts(daemon, answer.image.id))
        found.append((answer, await holders_of(daemon, spec), pulls))
    return found


def _description(image: api_pb2.Image, info: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("id", image.id)]
    lines += [("tag", tag) for tag in image.repo_tags]
    lines += [("digest", digest) for digest in image.repo_digests]
    lines.append(("size", f"{size(image.size)} compressed"))
    if user := str(image.uid.value) if image.HasField("uid") else image.username:
        lines.append(("user", user))
    if image.spec.runtime_handler:
        lines.append(("handler", image.spec.runtime_handler))
    lines.append(("pinned", "yes" if image.pinned else "no"))
    facts = info.get("info")
    if isinstance(facts, dict):
        lines += [("warning", warning) for warning in facts.get("warnings") or ()]
        lines += [
            (label, value if isinstance(value, str) else json.dumps(value))
            for label, value in _interesting(facts)
            if value
        ]
    return lines


def _interesting(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    spec = facts.get("imageSpec") or {}
    config = spec.get("config") or {}
    platform = [str(spec.get(key) or "") for key in ("os", "architecture", "variant")]
    return [
        ("chain id", facts.get("chainID")),
        ("platform", "/".join(part for part in platform if part)),
        ("created", spec.get("created")),
        ("entrypoint", config.get("Entrypoint")),
        ("command", config.get("Cmd")),
        ("directory", config.get("WorkingDir")),
        ("labels", config.get("Labels")),
    ]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def status_of(
    daemon: Daemon, spec: api_pb2.ImageSpec, *, verbose: bool = False
) -> api_pb2.ImageStatusResponse:
    """The image's status. Raises `Failure` where it is not present."""
    request = api_pb2.ImageStatusRequest(image=spec, verbose=verbose)
    answer = await daemon.images.ImageStatus(request, timeout=ANSWER_SECONDS)
    if not answer.HasField("image"):
        raise Failure(
            ExitCode.NOT_FOUND,
            f"no image {spec.image} is present",
            "`cri-imaged images` lists what is; `cri-imaged pull` brings more",
        )
    return answer


async def holders_of(daemon: Daemon, spec: api_pb2.ImageSpec) -> list[str]:
    """The containers that stand on an image's layers, with what each has written."""
    try:
        status = await status_of(daemon, spec, verbose=True)
        answer = await daemon.runtimes.ListRuntimeSnapshots(
            runtimes_pb2.ListRuntimeSnapshotsRequest(), timeout=ANSWER_SECONDS
        )
    except grpc.aio.AioRpcError:
        return []  # a damaged config, or an older daemon, must keep nobody from what he asked for
    facts = _parsed(status.info.get("info", ""))
    chain_id = facts.get("chainID") if isinstance(facts, dict) else None
    return [
        f"{each.runtime} {each.name} ({size(each.bytes)} written)"
        for each in answer.snapshots
        if each.chain_id == chain_id and each.kind != runtimes_pb2.RUNTIME_SNAPSHOT_KIND_COMMITTED
    ]
