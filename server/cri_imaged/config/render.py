"""Writes the defaults as a commented TOML file, and docs/configuration.md.

Descriptions are the strings under the options' fields, so that there is one place to say what a
key means.

    python -m cri_imaged.config.render      print docs/configuration.md
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from cri_imaged.config.load import default_config, element_of, struct_of
from cri_imaged.config.options import Config
from cri_imaged.config.values import CODECS

_WIDTH = 96
_PAGE = """\
# Configuration

TOML, laid out as containerd's; keys with containerd's meaning have containerd's name.

- `serve` reads `--config`, else `/etc/cri-imaged/config.toml` where it exists (an ordinary user's:
  `~/.config/cri-imaged/config.toml`).
- Above it lie the files `*.toml` of the folder `config.d` beside it, in the order of their names:
  each replaces single keys of those before it.
- Above all lie the options of `cri-imaged serve`, such as `--root` and `--log-level`.

`cri-imaged config check FILE` names every key that is unknown or has a wrong value. Registry
mirrors are configured by containerd's `hosts.toml` in the folders of `image.registry.config_path`.

Durations are written as `90s`, `5m`, `1h30m`; sizes as a number of bytes or `512MiB`, `10GB`. The
defaults below are root's; an ordinary user's data is in `$XDG_DATA_HOME/cri-imaged`, the socket in
`$XDG_RUNTIME_DIR/cri-imaged`.

This page is generated from the options' docstrings (`make docs`).

"""
_USER_NAMES = {
    "configs": '"HOST"',
    "proxy_snapshotters": "NAME",
    "runtime_platforms": "NAME",
}
"""What stands in documentation for a table name that the user chooses."""


@dataclass(frozen=True, slots=True)
class Key:
    """One thing that can be set."""

    table: str
    """Its path; with `[]` behind it, where there may be many."""
    name: str
    description: str
    default: str
    """As TOML."""
    example: bool
    """Whether it stands in a table that only users add."""


def default_toml(config: Config) -> str:
    """`config` as TOML, every key with its description. Reading it gives `config` again."""
    lines = ["# cri-imaged's configuration; every key with its default."]
    table = ""
    for key in keys(config):
        if key.table != table:
            table = key.table
            header = f"[{table.removesuffix('[]')}]"
            if table.endswith("[]"):
                header = f"[{header}]"
            lines += ["", _commented(header, key.example)]
        lines += ["", *textwrap.indent(textwrap.fill(key.description, _WIDTH), "# ").splitlines()]
        lines.append(_commented(f"{key.name} = {key.default}", key.example))
    return "\n".join(lines) + "\n"


def reference_page() -> str:
    """docs/configuration.md."""
    return _PAGE + _markdown_table()


def _markdown_table() -> str:
    """All keys with root's defaults, one row each."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in keys(default_config(privileged=True)):
        name = f"{key.table}.{key.name}" if key.table else key.name
        rows.append(f"| `{name}` | `{key.default}` | {key.description} |")
    return "\n".join(rows) + "\n"


def keys(config: Config) -> Iterator[Key]:
    """Every key of `config`: first a table's own, then its sub-tables'."""
    return _keys(config, "", example=False)


def _keys(options: msgspec.Struct, table: str, *, example: bool) -> Iterator[Key]:
    hints = get_type_hints(type(options), include_extras=True)
    described = descriptions(type(options))
    below: list[tuple[msgspec.Struct, str, bool]] = []
    for name, hint in hints.items():
        value = getattr(options, name)
        path = f"{table}.{name}" if table else name
        user_table = struct_of(get_args(hint)[1]) if get_origin(hint) is dict else None
        if struct := struct_of(hint):
            below.append((value or struct(), path, example or value is None))
        elif user_table:
            below.append((user_table(), f"{path}.{_USER_NAMES[name]}", True))
        elif listed := struct_of(element_of(hint)):
            below.append((listed(), f"{path}[]", True))
        else:
            yield Key(table, name, described.get(name, ""), toml(value, hint), example)
    for struct_value, path, is_example in below:
        yield from _keys(struct_value, path, example=is_example)


def descriptions(kind: type[msgspec.Struct]) -> Mapping[str, str]:
    """The string under each field of `kind`, its own and inherited ones, on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            found.update(_own_descriptions(base))
    return found


def _own_descriptions(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(description))),
            ):
                yield name, re.sub(r"\s+", " ", description).strip()


def toml(value: Any, kind: Any) -> str:
    """One value of type `kind` as TOML."""
    if codec := CODECS.get(kind):
        return toml(codec.show(value), str)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        inner = get_args(kind)[1]
        pairs = ", ".join(f"{_quoted(name)} = {toml(item, inner)}" for name, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    inner = get_args(kind)[0]
    return "[" + ", ".join(toml(item, inner) for item in value) + "]"


def _quoted(text: str) -> str:
    # TOML's basic strings escape as JSON's do, but for DEL.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _commented(line: str, comment: bool) -> str:
    return f"# {line}" if comment else line


if __name__ == "__main__":
    sys.stdout.write(reference_page())
