"""`cri-imaged images`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from cri_imaged.cli.client import Daemon, call
from cri_imaged.cli.image_list import (
    FIELDS,
    Row,
    described,
    filtered,
    key_of,
    rows_named,
)
from cri_imaged.cli.options import Address, Format
from cri_imaged.cli.output import (
    Output,
    document,
    note,
    show,
    show_columns,
    show_data,
    show_escaped,
)
from cri_imaged.cli.templates import Template
from cri_imaged.obs.terminal import escaped

if TYPE_CHECKING:
    from cri_imaged.rpc.node.v1 import history_pb2

_HEADERS = {
    "Repository": "IMAGE",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
}
"""Of columns whose header is not the field's name in capitals."""


def images(
    name: Annotated[
        str, typer.Argument(help="Show only images of this repository, tag, digest or ID.")
    ] = "",
    _every: Annotated[
        bool, typer.Option("--all", "-a", help="By habit: all are listed in any case.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print full IDs only.")] = False,
    digests: Annotated[bool, typer.Option("--digests", help="Show digests too.")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Show whole image IDs.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="KEY=VALUE",
            help="reference=PATTERN, dangling=BOOL, pinned=BOOL, before=IMAGE, since=IMAGE or "
            "until=DURATION; several have to fit all.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="TEMPLATE",
            help="A line for each image, as for docker: {{.Repository}}, {{.Tag}}, {{.Digest}}, "
            "{{.ID}}, {{.CreatedSince}}, {{.CreatedAt}}, {{.Size}}, {{.Pinned}}, {{.Handler}}. "
            "json: all of them. table before it: columns.",
            show_default=False,
        ),
    ] = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """List the images that are present.

    \b
    Examples:
      cri-imaged images
      cri-imaged images busybox
      cri-imaged images -q --filter dangling=true
      cri-imaged images --digests --no-trunc
      cri-imaged images --filter 'reference=registry.example/*' --filter until=720h
      cri-imaged images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
      cri-imaged images -o json | jq '.images[] | select(.pinned) | .repo_tags'
    """
    shown = _columns(template, digests)
    rows, counts = call(address, lambda daemon: _rows(daemon, name, counted=output.structured))
    rows = filtered(rows, filters or ())
    if output.structured:
        found = {key_of(row.image): row for row in rows}.values()
        show_data({"images": [_document(row, counts) for row in found]}, output)
    elif quiet:
        for image_id in dict.fromkeys(row.image.id for row in rows):
            show(image_id)
    elif rows or not (name or filters):
        _show(rows, shown, no_trunc)
    else:
        note("no such image is present; `cri-imaged images` lists all")


def _columns(template: str, digests: bool) -> Template | list[str]:
    """What is shown of a row: a line, or the names of columns; none for the usual ones."""
    table = re.fullmatch(r"table\s*(.*)", template, re.DOTALL)
    if template and not table:
        return Template("{{json .}}" if template == "json" else template, FIELDS)
    if table and table[1]:
        return [name for name in Template(table[1], FIELDS).names if name]
    digest = ["Digest"] if digests else []
    return ["Repository", "Tag", *digest, "ID", "CreatedSince", "Size", "Pinned"]


def _show(rows: list[Row], shown: Template | list[str], no_trunc: bool) -> None:
    now = time.time()
    fields = [row.fields(whole_ids=no_trunc, now=now) for row in rows]
    if isinstance(shown, Template):
        for each in fields:
            show_escaped(shown.render({key: escaped(value) for key, value in each.items()}))
        return
    if any(each["Handler"] for each in fields) and "Handler" not in shown:
        shown = [*shown, "Handler"]
    show_columns(
        [_HEADERS.get(column, column.upper()) for column in shown],
        [[each[column] for column in shown] for each in fields],
    )


async def _rows(
    daemon: Daemon, name: str, *, counted: bool
) -> tuple[list[Row], list[history_pb2.PullCount]]:
    """A row for each tag; and, where it is `counted`, how often images were pulled."""
    try:
        found = await described(daemon)
    except grpc.aio.AioRpcError:
        found = {}  # an older daemon must keep nobody from what he asked for
    rows = await rows_named(daemon, name, found)
    counts: list[history_pb2.PullCount] = []
    if counted:
        from cri_imaged.cli.pull_counts import pull_counts

        ids = {row.image.id for row in rows}
        counts = await pull_counts(daemon, ids.pop() if len(ids) == 1 else "")
    return rows, counts


def _document(row: Row, counts: list[history_pb2.PullCount]) -> dict[str, Any]:
    from cri_imaged.cli.pull_counts import counts_of

    pulls = [document(each) for each in counts_of(row.image, counts)]
    return {**document(row.image), "built_at": row.built or None, "pulls": pulls}
