"""`cri-imaged images`, `inspect`, `rm` and `fs`: what is in the store."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import (
    Output,
    document,
    short_id,
    show,
    show_columns,
    show_json,
    size,
    split_tag,
    time,
)
from cri_imaged.rpc.runtime.v1 import api_pb2

NONE = "<none>"


def images(
    name: Annotated[
        str, typer.Argument(help="Show only images of this name, tag, digest or ID.")
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print full IDs only.")] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """List the images that are present.

    \b
    Examples:
      cri-imaged images
      cri-imaged images busybox
      cri-imaged images -q
      cri-imaged images -o json | jq '.images[] | select(.pinned) | .repo_tags'
    """
    found = call(address, lambda daemon: _list(daemon, name))
    if output is Output.JSON:
        show_json({"images": [document(image) for image in found]})
    elif quiet:
        for image in found:
            show(image.id)
    else:
        show_columns(
            ("IMAGE", "TAG", "IMAGE ID", "SIZE", "PINNED"),
            [row for image in found for row in image_rows(image)],
        )


async def _list(daemon: Daemon, name: str) -> list[api_pb2.Image]:
    request = api_pb2.StreamImagesRequest()
    if name:
        request.filter.image.image = name
    batches = daemon.images.StreamImages(request, timeout=ANSWER_SECONDS)
    return [image async for batch in batches for image in batch.images]


def image_rows(image: api_pb2.Image) -> list[tuple[str, str, str, str, str]]:
    """One row for each tag; an image without tags is shown by its repository."""
    names = [split_tag(tag) for tag in image.repo_tags]
    if not names:
        digests = image.repo_digests or [NONE]
        names = [(digests[0].partition("@")[0], NONE)]
    pinned = "yes" if image.pinned else ""
    return [(*name, short_id(image.id), size(image.size), pinned) for name in names]


def inspect(
    name: Annotated[str, typer.Argument(help="A name, or a full or truncated ID.")],
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Show all that is known about one image.

    \b
    Examples:
      cri-imaged inspect busybox
      cri-imaged inspect 9f27bd
      cri-imaged inspect -o json busybox | jq .info.info.imageSpec.config.Cmd
    """
    spec = api_pb2.ImageSpec(image=name, runtime_handler=runtime_handler)
    answer = call(address, lambda daemon: _status(daemon, spec, verbose=True))
    info = {key: _parsed(value) for key, value in sorted(answer.info.items())}
    if output is Output.JSON:
        show_json({"image": document(answer.image), "info": info})
        return
    for label, value in _description(answer.image, info):
        show(f"{label + ':':<13} {value}")


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


async def _status(
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


def rm(
    names: Annotated[
        list[str], typer.Argument(help="Names, or full or truncated IDs.", metavar="NAME...")
    ],
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Remove images, each with all its names.

    An image that is mounted disappears from the list at once; its disk space comes back when it is
    unmounted.

    \b
    Examples:
      cri-imaged rm busybox
      cri-imaged rm $(cri-imaged images -q)
    """
    removed: list[str] = []
    try:
        call(address, lambda daemon: _remove(daemon, names, output, removed))
    finally:
        if output is Output.JSON:
            show_json({"removed": removed})


async def _remove(daemon: Daemon, names: list[str], output: Output, removed: list[str]) -> None:
    """Remove what is there, then fail for the first name that is not. `removed` gets their IDs."""
    absent: Failure | None = None
    for name in names:
        spec = api_pb2.ImageSpec(image=name)
        try:
            image = (await _status(daemon, spec)).image
        except Failure as failure:
            absent = absent or failure
            continue
        request = api_pb2.RemoveImageRequest(image=api_pb2.ImageSpec(image=image.id))
        await daemon.images.RemoveImage(request, timeout=ANSWER_SECONDS)
        removed.append(image.id)
        if output is Output.TEXT:
            show(f"removed {image.id}")
    if absent:
        raise absent


def fs(output: Format = Output.TEXT, address: Address = None) -> None:
    """Show the disk space that images take.

    There is a line for each snapshotter, the default one first. The first line includes the
    compressed blobs.

    \b
    Examples:
      cri-imaged fs
      cri-imaged fs -o json | jq '.image_filesystems[0].used_bytes'
    """
    answer = call(
        address,
        lambda daemon: daemon.images.ImageFsInfo(
            api_pb2.ImageFsInfoRequest(), timeout=ANSWER_SECONDS
        ),
    )
    if output is Output.JSON:
        show_json(document(answer))
        return
    show_columns(
        ("DIRECTORY", "USED", "INODES", "MEASURED"),
        [
            (
                entry.fs_id.mountpoint,
                size(entry.used_bytes.value),
                str(entry.inodes_used.value),
                time(entry.timestamp),
            )
            for entry in answer.image_filesystems
        ],
    )
