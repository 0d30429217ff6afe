"""Whether the readers of a store can read an image's config (pure): podman shows no image at all
where it cannot read the config of one.

Fields and types are the image specification's (`specs-go/v1`), read as Go reads JSON: names in any
letter case, and null for absence.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from cri_imaged.oci import lenient_json

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_NO_TIME = "1970-01-01T00:00:00Z"

_Texts: TypeAlias = list[str | None] | None
_Names: TypeAlias = dict[str, dict[str, Any] | None] | None


class _Run(msgspec.Struct):
    user: str | None = None
    exposedports: _Names = None
    env: _Texts = None
    entrypoint: _Texts = None
    cmd: _Texts = None
    volumes: _Names = None
    workingdir: str | None = None
    labels: dict[str, str | None] | None = None
    stopsignal: str | None = None
    argsescaped: bool | None = None


class _RootFs(msgspec.Struct):
    type: str | None = None
    diff_ids: _Texts = None


class _Step(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _Config(msgspec.Struct, rename={"os_version": "os.version", "os_features": "os.features"}):
    created: str | None = None
    author: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os: str | None = None
    os_version: str | None = None
    os_features: _Texts = None
    config: _Run | None = None
    rootfs: _RootFs | None = None
    history: list[_Step | None] | None = None


def created(config: bytes) -> str:
    """When the image was built, as its config says; a time long ago where it does not.

    Raises:
        ValueError: they cannot read it.
    """
    document = lenient_json.decode(config, dict[str, Any])
    read = msgspec.convert(_lowered(document, deep=True), _Config)
    for time in (read.created, *(step.created for step in read.history or () if step)):
        if time is not None and not _is_time(time):
            raise ValueError(f"{time[:100]!r} is no time")
    return read.created or _NO_TIME


def _is_time(text: str) -> bool:
    try:
        msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return False
    return _TIME.fullmatch(text) is not None


def _lowered(value: Any, *, deep: bool) -> Any:
    """With the names of its fields in lower case, and of those of the objects in it."""
    if isinstance(value, list):
        return [_lowered(each, deep=False) for each in value]
    if not isinstance(value, dict):
        return value
    found = {
        name.lower(): _lowered(each, deep=False) if deep else each for name, each in value.items()
    }
    if len(found) < len(value):
        raise ValueError("a field stands there twice")
    return found
