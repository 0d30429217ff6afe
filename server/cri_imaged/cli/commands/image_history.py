"""`cri-imaged history`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cri_imaged.cli.client import call
from cri_imaged.cli.commands.inspect import status_of
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, show_columns, show_data
from cri_imaged.rpc.runtime.v1 import api_pb2


def history(
    name: Annotated[str, typer.Argument(help="A name, or a full or truncated ID.")],
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Show how an image was built, the newest step first.

    It is what the image's config says of itself.

    \b
    Examples:
      cri-imaged history busybox
      cri-imaged history -o json busybox | jq -r '.history[].created_by'
    """
    spec = api_pb2.ImageSpec(image=name, runtime_handler=runtime_handler)
    answer = call(address, lambda daemon: status_of(daemon, spec, verbose=True))
    try:
        config = json.loads(answer.info["info"])["imageSpec"]
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
            ("CREATED", "LAYER", "CREATED BY", "COMMENT"),
            [
                (
                    str(step.get("created") or ""),
                    "no" if step.get("empty_layer") else "yes",
                    str(step.get("created_by") or ""),
                    str(step.get("comment") or ""),
                )
                for step in steps
            ],
        )
