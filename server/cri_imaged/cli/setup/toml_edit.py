"""Setting one key in a TOML file that people wrote: the rest of it stays as it is."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from cri_imaged.errors import ConfigError


def with_key(text: str, table: str, key: str, value: str | list[str]) -> str:
    """`text` with `key` of `table` ("" for the top) set to `value`. A list that is there already is
    extended.

    Raises:
        ConfigError: it is no TOML, says something else there, or cannot be changed safely.
    """
    before = parsed(text)
    present = _at(before, table).get(key)
    if present == value or (isinstance(value, list) and _holds(present, value)):
        return text
    if present is None:
        changed = _inserted(text, table, f"{key} = {json.dumps(value)}\n")
    elif isinstance(present, list) and isinstance(value, list):
        changed = _extended(text, key, value)
    else:
        raise ConfigError(f"{_named(table, key)} is {present!r} already: change it by hand")
    after = parsed(changed)
    wanted = [*(present or []), *value] if isinstance(value, list) else value
    set_now = _at(after, table).pop(key, None)
    _at(before, table).pop(key, None)
    same = sorted(set_now) == sorted(wanted) if isinstance(set_now, list) else set_now == wanted
    if not same or _pruned(after) != _pruned(before):
        raise ConfigError(f"set {_named(table, key)} to {json.dumps(value)} by hand")
    return changed


def _extended(text: str, key: str, value: list[str]) -> str:
    items = "".join(f"{json.dumps(each)}, " for each in value)
    opening = re.compile(rf"^(\s*{re.escape(key)}\s*=\s*\[)", re.MULTILINE)
    return opening.sub(lambda found: found[1] + items, text, count=1)


def _inserted(text: str, table: str, line: str) -> str:
    if not table:
        return line + text
    header = re.compile(rf"^\s*\[\s*{re.escape(table)}\s*\]\s*(#.*)?$\n?", re.MULTILINE)
    found = header.search(text)
    if found is None:
        gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        return f"{text}{gap}[{table}]\n{line}"
    return f"{text[: found.end()]}{line}{text[found.end() :]}"


def _holds(present: Any, value: list[str]) -> bool:
    return isinstance(present, list) and all(each in present for each in value)


def parsed(text: str) -> dict[str, Any]:
    """What `text` says. Raises `ConfigError` where it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}") from None


def _at(document: dict[str, Any], table: str) -> dict[str, Any]:
    for part in filter(None, table.split(".")):
        document = document.setdefault(part, {})
    return document


def _pruned(document: dict[str, Any]) -> dict[str, Any]:
    """Without empty tables."""
    pruned = {
        key: _pruned(value) if isinstance(value, dict) else value for key, value in document.items()
    }
    return {key: value for key, value in pruned.items() if value != {}}


def _named(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key
