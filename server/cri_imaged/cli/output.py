"""What commands print: aligned columns for people, JSON or YAML for programs."""

from __future__ import annotations

import enum
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cri_imaged.obs.terminal import escaped

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
    from google.protobuf.message import Message


class Output(enum.StrEnum):
    """What `-o` takes."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"

    @property
    def structured(self) -> bool:
        """Whether it is for programs."""
        return self is not Output.TEXT


def show(text: str = "", *, flush: bool = False) -> None:
    """Print one line on standard output; with `flush`, for who reads a stream."""
    sys.stdout.write(escaped(text) + "\n")
    if flush:
        sys.stdout.flush()


def show_escaped(text: str) -> None:
    """Print text in which what strangers say is `escaped` already, and a new line after it."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print one line on standard error: progress and failures, never results."""
    sys.stderr.write(escaped(text) + "\n")
    sys.stderr.flush()


def show_data(value: Any, output: Output, *, line: bool = False) -> None:
    """Print what JSON can hold as JSON, indented, or (`line`) as one line of a stream; or as YAML,
    where a stream's documents begin with `---`."""
    if output is Output.YAML:
        import yaml  # costs more than it takes to print JSON

        text = yaml.safe_dump(value, sort_keys=False, explicit_start=line, width=math.inf)
    else:
        text = json.dumps(value, indent=None if line else 2, ensure_ascii=True) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()


def show_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their header. Nothing is cut, whatever the terminal's width, so that names
    can be copied and piped."""
    lines = [header, *[[escaped(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        show("   ".join(cells).rstrip())


def document(message: Message) -> dict[str, Any]:
    """A protobuf message as JSON: fields by their names in the .proto, numbers as numbers, enum
    values by name in lower case without the enum's own name, what is not set as null, and a
    message that only wraps a `value` as that value."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    return {field.name: _field(message, field) for field in fields}


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if isinstance(value, Mapping):
            return dict(sorted(value.items()))
        return [_single(item, field) for item in value]
    if field.message_type and not message.HasField(field.name):
        return None
    return _single(value, field)


def _single(value: Any, field: FieldDescriptor) -> Any:
    if field.enum_type:
        return enum_name(field.enum_type, value)
    if not field.message_type:
        return value
    converted = document(value)
    return converted["value"] if converted.keys() == {"value"} else converted


def enum_name(kind: EnumDescriptor, number: int) -> str:
    """`PULL_PHASE_FETCHING` of PullPhase → `fetching`; a number that is not known here stays."""
    known = kind.values_by_number.get(number)
    if known is None:
        return str(number)
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return known.name.removeprefix(prefix).lower()


def size(count: int) -> str:
    """Bytes for people: `712 B`, `4.2 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        # 1023.95 would be shown as 1024.0.
        if value < 1023.95 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def time(nanoseconds: int) -> str:
    """Unix nanoseconds as UTC: `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def short_id(image_id: str) -> str:
    """As much of an image ID as is usual in a table: 13 hex digits, as crictl shows."""
    return image_id.removeprefix("sha256:")[:13]


def split_tag(repo_tag: str) -> tuple[str, str]:
    """Repository and tag of `host:5000/name:tag`."""
    name, _, tag = repo_tag.rpartition(":")
    return name, tag
