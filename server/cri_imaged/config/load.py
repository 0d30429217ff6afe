"""Reads the configuration from TOML and says exactly what is wrong with it.

Defaults depend on who runs the daemon: root's are the system's folders, anybody else's are the
XDG base directories of that user.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from cri_imaged.config.options import Config
from cri_imaged.config.values import CODECS
from cri_imaged.errors import ConfigError

Document = Mapping[str, Any]
_S = TypeVar("_S", bound=msgspec.Struct)
_FILE_BYTES = 4 << 20


def load_config(
    file: Path | None, *, privileged: bool, overrides: Document | None = None
) -> Config:
    """Read `file` (None: defaults alone) with `overrides`, laid out as the file, above it.

    Raises:
        ConfigError: a line for each problem, naming the file and the key with its whole path.
    """
    locations = _locations(privileged)
    above = _parse(_merged(locations, overrides or {}), "command line")
    if file is None:
        return above
    return _parse(_merged(_merged(locations, _read(file)), overrides or {}), str(file))


def default_config(privileged: bool) -> Config:
    """What holds where nothing is configured."""
    return load_config(None, privileged=privileged)


def default_config_file(privileged: bool) -> Path:
    """Where the configuration is looked for when nobody names a file."""
    if privileged:
        return Path("/etc/cri-imaged/config.toml")
    return _xdg("XDG_CONFIG_HOME", ".config") / "cri-imaged" / "config.toml"


def _read(file: Path) -> Document:
    try:
        with file.open("rb") as stream:
            text = stream.read(_FILE_BYTES + 1)
        if len(text) > _FILE_BYTES:
            raise ConfigError(f"{file}: is larger than {_FILE_BYTES} bytes")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None


def _locations(privileged: bool) -> Document:
    if privileged:
        return {}
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime else _xdg("XDG_STATE_HOME", ".local/state")
    state = base / "cri-imaged"
    return {
        "root": str(_xdg("XDG_DATA_HOME", ".local/share") / "cri-imaged"),
        "state": str(state),
        "grpc": {
            "address": str(state / "cri-imaged.sock"),
            "uid": os.getuid(),
            "gid": os.getgid(),
        },
    }


def _xdg(variable: str, fallback: str) -> Path:
    """A folder of the XDG Base Directory Specification, which ignores relative values."""
    value = Path(os.environ.get(variable, ""))
    if value.is_absolute():
        return value
    try:
        return Path.home() / fallback
    except RuntimeError:
        raise ConfigError(f"this user has no home directory: set HOME or {variable}") from None


def _merged(below: Document, above: Document) -> Document:
    """`above` over `below`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both_tables = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _merged(under, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def _parse(document: Document, name: str) -> Config:
    problems: list[str] = []
    config = _struct(Config, document, "", problems)
    if config is None:
        raise ConfigError("\n".join(f"{name}: {problem}" for problem in problems))
    return config


def _struct(kind: type[_S], table: Any, path: str, problems: list[str]) -> _S | None:
    """Build `kind` from a TOML table, adding to `problems`; None where there are any."""
    before = len(problems)
    if not isinstance(table, Mapping):
        problems.append(f"{path}: expected a table, got {_type_name(table)}")
        return None
    hints = get_type_hints(kind, include_extras=True)
    fields = {
        key: _value(hints[key], value, _join(path, key), problems)
        for key, value in table.items()
        if key in hints
    }
    problems.extend(
        f"{_join(path, key)}: unknown key{_suggestion(path, key, hints)}"
        for key in table
        if key not in hints
    )
    return kind(**fields) if len(problems) == before else None


def _value(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """Build one value of type `kind`, adding to `problems`."""
    if struct := struct_of(kind):
        return _struct(struct, value, path, problems)
    if get_origin(kind) is dict:
        return _dict(get_args(kind)[1], value, path, problems)
    try:
        if codec := CODECS.get(kind):
            return codec.parse(value)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"{value} is out of range, want 0 or more")
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{path}: {_plain(str(error))}{_choices(kind)}")
    except ValueError as error:
        problems.append(f"{path}: {error}")
    except TypeError:
        problems.append(f"{path}: expected {CODECS[kind].expected}, got {_type_name(value)}")
    return None


def _dict(kind: Any, table: Any, path: str, problems: list[str]) -> dict[str, Any] | None:
    if not isinstance(table, Mapping):
        problems.append(f"{path}: expected a table, got {_type_name(table)}")
        return None
    return {key: _value(kind, value, _join(path, key), problems) for key, value in table.items()}


def _join(path: str, key: str) -> str:
    bare = key.replace("-", "").replace("_", "").isalnum() and key.isascii()
    shown = key if bare else '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{path}.{shown}" if path else shown


def _plain(message: str) -> str:
    """msgspec's sentence in the style of ours: "Expected `int`, got `str` - at `$[0]`"."""
    message = message.replace("`", "")
    return message[:1].lower() + message[1:].replace(" - at $", ", at ")


def _type_name(value: Any) -> str:
    return "table" if isinstance(value, Mapping) else type(value).__name__


def _choices(kind: Any) -> str:
    if get_origin(kind) is not Literal:
        return ""
    return ", want one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))


def _suggestion(path: str, key: str, siblings: Mapping[str, Any]) -> str:
    """A key that was probably meant: a similar one here, or the same one in another table."""
    if close := difflib.get_close_matches(key, siblings, n=1):
        return f", did you mean {_join(path, close[0])}?"
    for known in known_keys(Config):
        if known.rpartition(".")[2] == key:
            return f", did you mean {known}?"
    return ""


def known_keys(kind: type[msgspec.Struct], path: str = "") -> list[str]:
    """Every key below `kind` with its whole path; tables by names of the user's count as one."""
    keys = []
    for key, hint in get_type_hints(kind, include_extras=True).items():
        struct = struct_of(hint)
        keys += known_keys(struct, _join(path, key)) if struct else [_join(path, key)]
    return keys


def struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct that a table of type `kind` is read into (`kind` may allow None: TOML has none),
    or None where `kind` is no such table."""
    if kind in CODECS or get_origin(kind) is dict:
        return None
    for option in (kind, *get_args(kind)):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None
