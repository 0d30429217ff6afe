"""Which file each value of a configuration is from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cri_imaged.config.load import Document, files, load_config, read
from cri_imaged.config.render import keys, toml

_SECRET = re.compile(r"\.(password|auth|identitytoken|registrytoken)$|\.headers\b")
_USER = re.compile(r"(?<=://)[^\s/@\"]+@")
"""In a URL."""
CENSORED = '"[censored]"'


class Setting(NamedTuple):
    """One key with its value."""

    key: str
    value: str
    """As TOML; what is secret is not shown."""
    origin: Path | None
    """None: the default."""


def settings(file: Path | None, *, privileged: bool) -> list[Setting]:
    """All keys of the configuration `file` with what lies above it, then those that its tables
    with names of the user's own have.

    Raises:
        ConfigError: it is wrong.
    """
    config = load_config(file, privileged=privileged)
    origins: dict[str, Path] = {}
    given: dict[str, object] = {}
    for path in files(file):
        for key, value in _leaves(read(path), ""):
            origins[key] = path
            given[key] = value
    found = []
    for each in keys(config):
        if not each.example:
            key = f"{each.table}.{each.name}" if each.table else each.name
            of_key = [name for name in origins if name == key or name.startswith(f"{key}.")]
            origin = origins[of_key[-1]] if of_key else None
            found.append(Setting(key, _shown(key, each.default), origin))
            for name in of_key:
                del origins[name]
    found += [
        Setting(key, _shown(key, toml(given[key], type(given[key]))), path)
        for key, path in sorted(origins.items())
    ]
    return found


def _leaves(table: Document, path: str) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        shown = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
        key = f"{path}.{shown}" if path else shown
        if isinstance(value, Mapping):
            yield from _leaves(value, key)
        else:
            yield key, value


def _shown(key: str, value: str) -> str:
    if _SECRET.search(key) and value not in ('""', "{}"):
        return CENSORED
    return _USER.sub("[censored]@", value)
