"""The plan of the house as a failing check: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "cri_imaged"
SOURCE = Path(__file__).parents[1] / "server" / PACKAGE
LONGEST_FILE = 350
"""Lines that are not blank."""
BASE = {"ports", "oci", "errors", "limits"}


@dataclass(frozen=True)
class Room:
    """One room: what of ours it may import (rooms or modules of them), and why no more."""

    may: frozenset[str]
    because: str

    def allows(self, module: str) -> bool:
        """Whether `module`, without the package's name, is one of these or inside of one."""
        return any(f"{module}.".startswith(f"{each}.") for each in self.may)


def room(because: str, *may: str) -> Room:
    return Room(frozenset(may), because)


_BOUND_BY_PORTS = (
    "registry, content, snapshots and layers know one another through ports/ alone, so that each "
    "can be replaced; images/ brings them together"
)

ROOMS = {
    "errors": room("the error taxonomy depends on nothing, so that everything may raise it"),
    "limits": room("limits are plain numbers that everything may read"),
    "oci": room("oci/ holds pure values; it knows no I/O and no other room", "errors", "limits"),
    "ports": room("ports/ speaks of values alone", "oci", "errors", "limits"),
    "rpc": room("generated stubs know nothing of us", "rpc"),
    "metadata": room("rows and transactions know none of their users", *BASE),
    "registry": room(_BOUND_BY_PORTS, *BASE),
    "layers": room(_BOUND_BY_PORTS, *BASE),
    "content": room(_BOUND_BY_PORTS, *BASE, "metadata", "trash"),
    "snapshots": room(_BOUND_BY_PORTS, *BASE, "metadata", "trash", "mounting"),
    "trash": room("a helper of the stores that knows none of them", *BASE),
    "process": room("a helper of daemon.py that knows no room", *BASE),
    "mounting": room("mounts are performed the same for snapshots and for the client", *BASE),
    "images": room(
        "use cases know the other rooms through ports/; daemon.py hands them in",
        *(*BASE, "metadata", "obs"),
    ),
    "obs": room("logs, metrics and traces are used by others and use none of them", *BASE),
    "config": room(
        "configuration is values; daemon.py gives each room its part",
        *(*BASE, "registry.options"),
    ),
    "cri": room(
        "a gRPC face converts and calls a use case; stores are behind images/",
        *(*BASE, "images", "rpc", "obs"),
    ),
    "cli": room(
        "client commands speak to a daemon over its socket; `serve` starts one through daemon.py",
        *(*BASE, "rpc", "config", "obs", "mounting", "daemon"),
    ),
    "daemon": room(
        "daemon.py wires every room, and no room knows the command line",
        *(*BASE, "metadata", "registry", "content", "snapshots", "layers", "images"),
        *("cri", "rpc", "obs", "config", "process", "trash", "mounting"),
    ),
}
"""ARCHITECTURE.md's table of rooms. A room may always import itself."""

GRPC = {"rpc", "cri", "cli", "daemon"}
"""Rooms that may know gRPC."""


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file belongs to: its folder under the package, or its own name."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, wherever in the file it stands."""
    package = [PACKAGE, *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def forbidden(path: Path, tree: ast.AST) -> Iterator[str]:
    """Each import that the table does not allow, as a sentence."""
    here = room_of(path)
    shown = path.relative_to(SOURCE.parent)
    for line, name in imports(path, tree):
        top, _, rest = name.partition(".")
        if top == "grpc" and here not in GRPC:
            yield f"{shown}:{line} imports {name}: only {', '.join(sorted(GRPC))} may know gRPC"
        there = rest.partition(".")[0]
        if top != PACKAGE or not there or there == here or there not in ROOMS:
            continue
        if here not in ROOMS:
            yield f"{shown}:{line}: {here} is no room of ARCHITECTURE.md's table; add it there"
        elif not ROOMS[here].allows(rest):
            yield f"{shown}:{line} imports {name}: {ROOMS[here].because}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_plan(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path))
    assert list(forbidden(path, tree)) == []


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__", "__main__"}
    assert rooms - set(ROOMS) == set(), "give new rooms a row here and in ARCHITECTURE.md"


def filled_lines(path: Path) -> int:
    return sum(1 for line in path.read_text().splitlines() if line.strip())


def test_no_file_holds_two_things() -> None:
    long = {
        str(path.relative_to(SOURCE)): length
        for path in sources()
        if room_of(path) != "rpc" and (length := filled_lines(path)) > LONGEST_FILE
    }
    assert long == {}, f"longer than {LONGEST_FILE} lines: split by purpose"


@pytest.mark.parametrize(
    ("file", "code", "word"),
    [
        ("registry/client.py", "from cri_imaged.content import store", "ports/"),
        ("registry/client.py", "from cri_imaged import content", "ports/"),
        ("registry/client.py", "from ..content.store import Store", "ports/"),
        ("layers/tar.py", "def f():\n    import cri_imaged.snapshots.overlay", "ports/"),
        ("errors.py", "from cri_imaged.ports import Lease", "taxonomy"),
        ("images/pull.py", "import grpc", "gRPC"),
        ("cri/server.py", "from cri_imaged.content.store import Store", "images/"),
        ("config/load.py", "from cri_imaged.registry.client import Client", "values"),
        ("attic/old.py", "from cri_imaged import errors", "no room"),
    ],
)
def test_the_check_finds_a_forbidden_import(file: str, code: str, word: str) -> None:
    (found,) = forbidden(SOURCE / file, ast.parse(code))
    assert word in found


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("registry/client.py", "from cri_imaged.ports import Resolver"),
        ("registry/client.py", "from . import auth\nfrom .auth import token"),
        ("content/store.py", "from cri_imaged.metadata.repository import Repository"),
        ("cri/server.py", "import grpc\nfrom cri_imaged import __version__"),
        ("registry/client.py", "import aiohttp"),
        ("config/load.py", "from cri_imaged.registry.options import RegistryOptions"),
    ],
)
def test_the_check_allows_what_the_plan_allows(file: str, code: str) -> None:
    assert list(forbidden(SOURCE / file, ast.parse(code))) == []
