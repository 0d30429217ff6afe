"""`cri-imaged bundle`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.commands.mount import key_of, mount_view, unmount_view
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, show, show_data
from cri_imaged.cli.users import process_user
from cri_imaged.errors import ImagedError
from cri_imaged.oci.runtime_spec import runtime_spec
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2


def bundle(
    image: Annotated[str, typer.Argument(help="A name, or a full or truncated ID.")],
    directory: Annotated[Path, typer.Argument(help="Made where it is not there.", metavar="DIR")],
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run, instead of the image's own command.")
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", "-t", help="For a shell: give it a terminal.")
    ] = False,
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Write an OCI bundle in DIR, which runc and crun run.

    The image is mounted writable on DIR/rootfs, in this shell's mount namespace, which needs root.
    config.json is made from the image's config. `cri-imaged umount DIR/rootfs` gives it back.

    \b
    Examples:
      cri-imaged bundle busybox /tmp/busybox
      cri-imaged bundle -t busybox /tmp/busybox sh
      runc run --bundle /tmp/busybox try; cri-imaged umount /tmp/busybox/rootfs
    """
    root = directory.resolve() / "rootfs"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(error) from None
    image_id = call(
        address,
        lambda daemon: _write(daemon, image, runtime_handler, root, command or [], terminal),
    )
    if output.structured:
        show_data({"image_id": image_id, "bundle": str(root.parent)}, output)
    else:
        show(f"wrote the bundle of {image_id} to {root.parent}")


async def _write(
    daemon: Daemon,
    image: str,
    handler: str,
    root: Path,
    command: list[str],
    terminal: bool,
) -> str:
    request = node_pb2.CreateViewRequest(
        image=image, runtime_handler=handler, key=key_of(root), writable=True
    )
    view = await mount_view(daemon, request, root)
    try:
        status = await daemon.images.ImageStatus(
            api_pb2.ImageStatusRequest(
                image=api_pb2.ImageSpec(image=view.image_id, runtime_handler=handler), verbose=True
            ),
            timeout=ANSWER_SECONDS,
        )
        config = json.loads(status.info["info"])["imageSpec"]
        user = process_user(root, (config.get("config") or {}).get("User") or "")
        spec = runtime_spec(config, user, command, root=root.name, terminal=terminal)
        (root.parent / "config.json").write_text(json.dumps(spec, indent=2) + "\n")
    except BaseException as error:
        await unmount_view(daemon, root, lazy=False)
        if isinstance(error, ImagedError):
            raise Failure(ExitCode.FAILED, str(error)) from None
        if isinstance(error, OSError):
            raise _unusable(error) from None
        raise
    return view.image_id


def _unusable(error: OSError) -> Failure:
    return Failure(ExitCode.FAILED, f"{error.filename}: {error.strerror}", "name another DIR")
