"""Reads the configuration from TOML and says exactly what is wrong with it.

Defaults depend on who runs the daemon: root's are the system's folders, anybody else's are the
XDG base directories of that user.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from cri_imaged.config.options import Config
from cri_imaged.config.values import CODECS, joined
from cri_imaged.errors import ConfigError
from cri_imaged.locations import own_socket, own_state, xdg

Document = Mapping[str, Any]
_S = TypeVar("_S", bound=msgspec.Struct)
_FILE_BYTES = 4 << 20


def load_config(
    file: Path | None, *, privileged: bool, overrides: Document | None = None
) -> Config:
    """Read `file` (None: defaults alone), above it the files of `config.d` beside it in the order
    of their names, and above these `overrides`, laid out as the file.

    Raises:
        ConfigError: a line for each problem, naming the file and the key with its whole path.
    """
    config, merged = None, _locations(privileged)
    for path in files(file):
        merged = _merged(merged, read(path))
        config = _parse(merged, str(path))  # what is wrong now is this file's doing
    if overrides or config is None:
        return _parse(_merged(merged, overrides or {}), "command line")
    return config


def files(file: Path | None) -> list[Path]:
    """The files that make up the configuration `file`, each above those before it.

    Raises:
        ConfigError: the folder `config.d` cannot be read.
    """
    if file is None:
        return []
    folder = file.parent / "config.d"
    try:
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    return [file, *(folder / name for name in names if name.endswith(".toml"))]


def default_config(privileged: bool) -> Config:
    """What holds where nothing is configured."""
    return load_config(None, privileged=privileged)


def default_config_file(privileged: bool) -> Path:
    """Where the configuration is looked for when nobody names a file."""
    if privileged:
        return Path("/etc/cri-imaged/config.toml")
    return _own_folder() / "config.toml"


def read(file: Path) -> Document:
    """The TOML document in `file`. Raises `ConfigError`."""
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
    state = own_state()
    return {
        "root": str(xdg("XDG_DATA_HOME", ".local/share") / "cri-imaged"),
        "state": str(state),
        "grpc": {
            "address": str(own_socket()),
            "uid": os.getuid(),
            "gid": os.getgid(),
        },
        "image": {"registry": {"docker_config": str(_own_folder() / "auth.json")}},
        "runtime": {"snapshots_address": str(state / "snapshots.sock")},
    }


def _own_folder() -> Path:
    """An ordinary user's folder of what configures his daemon."""
    return xdg("XDG_CONFIG_HOME", ".config") / "cri-imaged"


def _merged(below: Document, above: Document) -> Document:
    """`above` over `below`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            merged[key] = _merged(under, value)
        else:
            merged[key] = value
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
        key: _value(hints[key], value, joined(path, key), problems)
        for key, value in table.items()
        if key in hints
    }
    problems.extend(
        f"{joined(path, key)}: unknown key{_suggestion(path, key, hints)}"
        for key in table
        if key not in hints
    )
    if len(problems) > before:
        return None
    try:
        return kind(**fields)
    except ValueError as error:  # keys that contradict one another
        problems.append(_placed(path, str(error), hints))
        return None


def _placed(path: str, message: str, keys: Mapping[str, Any]) -> str:
    """A table's problem; one whose words begin with a key of it, as in `key: words` or
    `key.name: words`, is that key's."""
    if not path:
        return message
    first = re.match(r"(\w+)[.:]", message)
    return f"{path}.{message}" if first and first[1] in keys else f"{path}: {message}"


def _value(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """Build one value of type `kind`, adding to `problems`."""
    if struct := struct_of(kind):
        return _struct(struct, value, path, problems)
    if get_origin(kind) is dict:
        return _dict(get_args(kind)[1], value, path, problems)
    if inner := element_of(kind):
        return _list(inner, value, path, problems)
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


def _list(kind: Any, items: Any, path: str, problems: list[str]) -> list[Any] | None:
    if not isinstance(items, list):
        problems.append(f"{path}: expected array, got {_type_name(items)}")
        return None
    return [_value(kind, item, f"{path}[{number}]", problems) for number, item in enumerate(items)]


def _dict(kind: Any, table: Any, path: str, problems: list[str]) -> dict[str, Any] | None:
    if not isinstance(table, Mapping):
        problems.append(f"{path}: expected a table, got {_type_name(table)}")
        return None
    return {key: _value(kind, value, joined(path, key), problems) for key, value in table.items()}


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
        return f", did you mean {joined(path, close[0])}?"
    for known in known_keys(Config):
        if known.rpartition(".")[2] == key:
            return f", did you mean {known}?"
    return ""


def known_keys(kind: type[msgspec.Struct], path: str = "") -> list[str]:
    """Every key below `kind` with its whole path; tables by names of the user's count as one."""
    keys = []
    for key, hint in get_type_hints(kind, include_extras=True).items():
        struct = struct_of(hint)
        keys += known_keys(struct, joined(path, key)) if struct else [joined(path, key)]
    return keys


def struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct that a table of type `kind` is read into (`kind` may allow None: TOML has none),
    or None where `kind` is no such table."""
    if kind in CODECS or get_origin(kind) in (dict, list):
        return None
    for option in (kind, *get_args(kind)):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def element_of(kind: Any) -> Any:
    """The type of a list's elements, where reading them takes more than msgspec; else None."""
    if get_origin(kind) is not list:
        return None
    (inner,) = get_args(kind)
    return inner if inner in CODECS or struct_of(inner) else None
