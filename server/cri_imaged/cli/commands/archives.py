"""`cri-imaged import` and `export`: images in and out of files."""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, TypeAlias

import typer

from cri_imaged.cli.archive_files import read_archive
from cri_imaged.cli.client import Daemon, call, exchange
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.files import replacing
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, document, note, show, show_data
from cri_imaged.rpc.node.v1 import archives_pb2 as api


class Kind(enum.StrEnum):
    """What `--format` takes."""

    OCI = "oci"
    DOCKER = "docker"


_IMPORT = "/cri_imaged.node.v1.Archives/ImportImages"
_KINDS = {Kind.OCI: api.ARCHIVE_FORMAT_OCI, Kind.DOCKER: api.ARCHIVE_FORMAT_DOCKER}

File: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="[FILE|-]",
        help="A tar, plain or in gzip or zstd; a layout's directory; - for stdin, as without.",
        show_default=False,
    ),
]
Input: TypeAlias = Annotated[
    str, typer.Option("--input", "-i", metavar="FILE", help="FILE, by habit.", show_default=False)
]
Name: TypeAlias = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What the image is called, in place of the names in the archive. Without a tag it "
        "takes the tags of an OCI layout.",
        show_default=False,
    ),
]
Names: TypeAlias = Annotated[
    list[str], typer.Argument(help="Names, or full or truncated IDs.", metavar="NAME...")
]
Into: TypeAlias = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write it; - for stdout, as without."
    ),
]
ArchiveKind: TypeAlias = Annotated[
    Kind, typer.Option("--format", help="oci: an OCI image layout. docker: as docker save.")
]


def import_images(
    file: File = "",
    from_file: Input = "",
    name: Name = "",
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Bring images in from a file, without a registry.

    It takes what `docker save`, `podman save`, `skopeo copy` (oci-archive:, docker-archive:, oci:)
    and `export` write. Nothing of a file that is cut off or damaged is kept. Digests stay as they
    are in the file.

    \b
    Examples:
      cri-imaged import images.tar
      cri-imaged import images.tar.zst
      cri-imaged import --name registry.example/app:v1 layout/
      docker save app:v1 | cri-imaged import -
    """
    if file and from_file:
        raise typer.BadParameter("give FILE once")
    file = file or from_file or "-"
    if file == "-" and sys.stdin.isatty():
        raise Failure(ExitCode.USAGE, "standard input is a terminal", "name a file, or pipe one in")
    options = api.ImportOptions(name=name, runtime_handler=runtime_handler)
    found: list[api.ImportImagesResponse] = []
    try:
        requests = _requests(file, options)
        for image in exchange(address, _IMPORT, requests, api.ImportImagesResponse):
            found.append(image)
            if not output.structured:
                _tell(image)
    finally:
        if output.structured:
            show_data({"images": [document(each) for each in found]}, output)


def export(
    names: Names,
    output: Into = "-",
    kind: ArchiveKind = Kind.OCI,
    runtime_handler: Handler = "",
    address: Address = None,
) -> None:
    """Write images to a file that other nodes and tools can take.

    Blobs and manifests are written as they were pulled, so that digests stay; of an image for
    several platforms, what is here. podman, skopeo, docker and containerd read both formats; docker
    before version 25 needs `--format docker`. FILE appears only when it is whole.

    \b
    Examples:
      cri-imaged export busybox -o busybox.tar
      cri-imaged export busybox alpine:3 -o - | zstd > images.tar.zst
      cri-imaged export --format docker busybox -o - | podman load
    """
    request = api.ExportImagesRequest(
        images=names, format=_KINDS[kind], runtime_handler=runtime_handler
    )
    if output == "-":
        if sys.stdout.isatty():
            raise Failure(
                ExitCode.USAGE, "standard output is a terminal", "name a file, or pipe it on"
            )
        call(address, lambda daemon: _export(daemon, request, sys.stdout.buffer))
        return
    try:
        with replacing(Path(output)) as file:
            call(address, lambda daemon: _export(daemon, request, file))
    except OSError as error:
        raise Failure(ExitCode.FAILED, f"{output}: {error.strerror or error}") from None


def _tell(image: api.ImportImagesResponse) -> None:
    for name in image.names or [image.image_id]:
        show(f"imported {name}")
    if not image.names:
        note(f"{image.image_id} has no name in the archive: give it one with --name")


def _requests(file: str, options: api.ImportOptions) -> Iterator[api.ImportImagesRequest]:
    yield api.ImportImagesRequest(options=options)
    for chunk in read_archive(file):
        yield api.ImportImagesRequest(chunk=chunk)


async def _export(daemon: Daemon, request: api.ExportImagesRequest, into: IO[bytes]) -> None:
    async for piece in daemon.archives.ExportImages(request):
        await asyncio.to_thread(into.write, piece.chunk)
