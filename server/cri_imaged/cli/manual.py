"""Man pages of the commands, from their help: `python -m cri_imaged.cli.manual DIR`.

One page for the program and one for each command, `cri-imaged-pull.1`, as git and Docker have them;
in man(7)'s macros.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cri_imaged import __version__

_PROGRAM = "cri-imaged"


def main() -> None:
    """Write the pages into the folder that the first argument names."""
    from cri_imaged.cli.main import app

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages(typer.main.get_command(app)):
        (folder / f"{name}.1").write_text(text)


def pages(program: Any) -> Iterator[tuple[str, str]]:
    """Name and text of each page: the program's, and its commands'."""
    for command, path in _commands(program, (_PROGRAM,)):
        yield "-".join(path), _page(command, path)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    yield command, path
    for name, below in _below(command):
        yield from _commands(below, (*path, name))


def _below(command: Any) -> list[tuple[str, Any]]:
    """The commands of a group."""
    if not hasattr(command, "list_commands"):
        return []
    context = typer.Context(command)
    return [(name, command.get_command(context, name)) for name in command.list_commands(context)]


def _page(command: Any, path: tuple[str, ...]) -> str:
    summary, *rest = inspect.cleandoc(command.help).split("\n\n")
    summary, _, more = summary.partition(". ")
    context = typer.Context(command, info_name=" ".join(path))
    lines = [
        f'.TH "{"-".join(path).upper()}" 1 "" "{_PROGRAM} {__version__}"',
        ".SH NAME",
        f"{_text('-'.join(path))} \\- {_text(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        _text(" ".join([*path, *command.collect_usage_pieces(context)])),
    ]
    plain = [each for each in (more, *rest) if each and not each.startswith("\b")]
    if plain:
        lines += [".SH DESCRIPTION", *_joined(".PP", plain)]
    options = [record for each in command.get_params(context) if (record := _option(each, context))]
    if options:
        lines += [".SH OPTIONS", *(line for option in options for line in option)]
    for each in rest:
        if each.startswith("\b"):
            title, _, body = each.removeprefix("\b").strip("\n").partition(":")
            told = _text(inspect.cleandoc(body.strip("\n")))
            lines += [f".SH {_text(title.upper())}", ".nf", told, ".fi"]
    if below := _below(command):
        lines += [".SH COMMANDS"]
        lines += [line for name, each in below for line in _entry((*path, name), each)]
    elif len(path) > 1:
        lines += [".SH SEE ALSO", f"{_text('-'.join(path[:-1]))}(1)"]
    return "\n".join(lines) + "\n"


def _entry(path: tuple[str, ...], command: Any) -> list[str]:
    """A command in the list of its group."""
    return [".TP", f".B {_text('-'.join(path))}(1)", _text(command.get_short_help_str(200))]


def _option(parameter: Any, context: Any) -> list[str]:
    """An option or argument with its help; nothing where it has none."""
    told = parameter.get_help_record(context)
    return [".TP", f".B {_text(told[0])}", _text(told[1])] if told else []


def _joined(macro: str, paragraphs: list[str]) -> list[str]:
    return [line for each in paragraphs for line in (macro, _text(each))]


def _text(text: str) -> str:
    """Text that no line of is a request of roff's."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


if __name__ == "__main__":
    main()
