"""`cri-imaged history`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from cri_imaged.cli.client import call
from cri_imaged.cli.commands.inspect import status_of
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, show_columns, show_data, size
from cri_imaged.rpc.runtime.v1 import api_pb2


def history(
    name: Annotated[str, typer.Argument(help="A name, or a full or truncated ID.")],
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Show how an image was built, the newest step first.

    It is what the image's config says of itself. Sizes are those of layers as a registry has them.

    \b
    Examples:
      cri-imaged history busybox
      cri-imaged history -o json busybox | jq -r '.history[].created_by'
    """
    spec = api_pb2.ImageSpec(image=name, runtime_handler=runtime_handler)
    answer = call(address, lambda daemon: status_of(daemon, spec, verbose=True))
    try:
        facts = json.loads(answer.info["info"])
        config = facts["imageSpec"]
    except (KeyError, ValueError):
        raise Failure(
            ExitCode.FAILED, f"{name}: its config cannot be read", "`cri-imaged check`"
        ) from None
    told = config.get("history")
    every: list[Any] = told if isinstance(told, list) else []  # nobody checks what it says
    steps = [step for step in reversed(every) if isinstance(step, dict)]
    if output.structured:
        show_data({"id": answer.image.id, "history": steps}, output)
    else:
        show_columns(
            ("CREATED", "LAYER", "SIZE", "CREATED BY", "COMMENT"),
            [
                (
                    str(step.get("created") or ""),
                    "no" if step.get("empty_layer") else "yes",
                    told_size,
                    str(step.get("created_by") or ""),
                    str(step.get("comment") or ""),
                )
                for step, told_size in zip(
                    steps, _sizes(steps, facts.get("layerSizes") or ()), strict=True
                )
            ],
        )


def _sizes(steps: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> list[str]:
    """Of each step, the newest first; `layers` has the lowest first. Nothing where a step has no
    layer, or the steps are not those of the layers."""
    making = [not step.get("empty_layer") for step in steps]
    if sum(making) != len(layers):
        return [""] * len(steps)
    left = list(layers)
    return [size(left.pop()) if makes else "" for makes in making]
