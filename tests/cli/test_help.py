"""Help teaches: every command has examples, and every example is a valid command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cri_imaged.cli.failure import ExitCode
from cri_imaged.cli.main import app
from cri_imaged.cli.table import ALIASES, SUMMARIES
from cri_imaged.cli.table import COMMANDS as COMMANDS_BY_NAME

README = Path(__file__).parents[2] / "README.md"
ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command and group."""
    yield path
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands())


def help_of(path: tuple[str, ...]) -> str:
    run = CliRunner().invoke(app, [*path, "--help"], prog_name="cri-imaged")
    assert run.exit_code == 0, run.output
    return run.output


def examples(path: tuple[str, ...]) -> list[str]:
    """The lines under "Examples:"."""
    lines = iter(help_of(path).splitlines())
    for line in lines:
        if line.strip() == "Examples:":
            break
    found = []
    for line in lines:
        if not line.strip():
            break
        found.append(line.strip())
    return found


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_and_shows_examples(path: tuple[str, ...]) -> None:
    own = [line for line in examples(path) if " ".join(["cri-imaged", *path]) in line]
    assert own, f"{path} has no example of itself"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_are_valid_command_lines(path: tuple[str, ...]) -> None:
    for example in examples(path):
        for call in re.findall(r"cri-imaged ([^|<>()]+)", example):
            words = shlex.split(call)
            if "COMMAND" not in words:
                parse(ROOT, words, example)


def parse(command: Any, words: list[str], example: str) -> None:
    """Parse `words` as the program would, without running anything."""
    context = command.make_context("cri-imaged", list(words))
    if hasattr(command, "list_commands"):
        left = [*context._protected_args, *context.args]
        found = command.get_command(context, left[0])
        assert found, example
        parse(found, left[1:], example)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_list_of_commands_cuts_no_sentence(path: tuple[str, ...]) -> None:
    assert "..." not in "\n".join(
        line for line in help_of(path).partition("Commands:")[2].splitlines()
    )


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    context = typer.Context(ROOT)
    said = {
        name: ROOT.get_command(context, name).get_short_help_str(200) for name in COMMANDS_BY_NAME
    }
    assert list(SUMMARIES.items()) == list(said.items()), "tell the same in cli/table.py"


def test_every_option_is_explained() -> None:
    for path in COMMANDS:
        command: Any = ROOT
        for name in path:
            command = command.get_command(typer.Context(command), name)
        unexplained = [p.name for p in command.params if not p.help and p.name != "help"]
        assert not unexplained, f"{path}: {unexplained}"


@pytest.mark.parametrize("alias", [*ALIASES, "image ls", "image rmi", "image inspect"])
def test_what_people_type_by_habit_is_understood(alias: str) -> None:
    assert "Examples:" in help_of(tuple(alias.split()))


def test_the_readme_lists_every_command() -> None:
    text = README.read_text()
    table = text.partition("## Commands")[2].partition("## Configuration")[0]
    for path in COMMANDS:
        if path:
            assert f"`{' '.join(path)}" in table, f"the README does not list {path}"


def test_the_readme_and_the_help_list_every_exit_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README.read_text(), re.MULTILINE)}
    assert listed == set(ExitCode)
    summary = re.sub(r"\s+", " ", help_of(()).partition("Exit codes:")[2].partition(".")[0])
    assert {int(code) for code in re.findall(r"\d+", summary)} == set(ExitCode)
