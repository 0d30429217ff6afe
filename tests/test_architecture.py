"""The plan of the house as a failing check: who may import whom, how long files and functions are,
how the log speaks."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "cri_imaged"
SOURCE = Path(__file__).parents[1] / "server" / PACKAGE
GROUND = {
    "budget",
    "decoders",
    "threads",
    "children",
    "shielding",
    "full_disk",
    "durations",
    "daytimes",
    "unpacked",
    "libc",
    "private",
    "disk",
    "locations",
    "unix_sockets",
    "spool",
}
"""Modules that know nothing of images and that every room may use."""
LONGEST_FILE = 350
LONGEST_FUNCTION = 60
WIDEST_CONSTRUCTOR = 8
MOST_IGNORES = 3
LOG_EVENT = re.compile(r"[a-z][a-z0-9 ,;:'()-]*")
BASE = {"ports", "oci", "errors", "limits", *GROUND}


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
    "shielding": room("knows asyncio alone"),
    "budget": room("memory, counted; the error says which limit", "errors"),
    "children": room("knows processes alone", "shielding"),
    "durations": room("a notation, and nothing else"),
    "unpacked": room("packed files, whatever is in them"),
    "daytimes": room("a notation, and the local clock"),
    "private": room("knows file modes alone"),
    "decoders": room("knows msgspec alone"),
    "threads": room("knows asyncio alone"),
    "disk": room("knows threads alone", "threads"),
    "unix_sockets": room("knows sockets alone", "errors"),
    "locations": room("knows the environment alone", "errors"),
    "spool": room(
        "what strangers send, in files; it is read within the budget",
        *("budget", "disk", "full_disk", "shielding"),
    ),
    "loops": room("knows the kernel's loop devices alone"),
    "libc": room("knows the C library alone"),
    "full_disk": room("turns the kernel's word into the taxonomy's", "errors"),
    "oci": room(
        "oci/ holds pure values; it knows no I/O and no other room", "errors", "limits", "decoders"
    ),
    "ports": room("ports/ speaks of values alone", "oci", "errors", "limits"),
    "rpc": room("generated stubs know nothing of us"),
    "erofs": room("a format of bytes in one file, and nothing of images", "errors"),
    "metadata": room("rows and transactions know none of their users", *BASE),
    "registry": room(_BOUND_BY_PORTS, *BASE),
    "layers": room(_BOUND_BY_PORTS, *BASE, "erofs"),
    "content": room(_BOUND_BY_PORTS, *BASE, "metadata"),
    "snapshots": room(
        _BOUND_BY_PORTS, *BASE, "erofs", "metadata", "trash", "mounting", "loops", "rpc"
    ),
    "trash": room("a helper of the stores that knows none of them", *BASE),
    "reloading": room(
        "configurations old and new; what takes them over is handed in", *BASE, "config"
    ),
    "systemd": room("a helper of daemon.py that knows no room"),
    "process": room("a helper of daemon.py that knows no room", *BASE),
    "mounting": room("mounts are performed the same for snapshots and for the client", *BASE),
    "images": room(
        "use cases know the other rooms through ports/; daemon.py hands them in",
        *(*BASE, "metadata", "obs"),
    ),
    "runtimes": room(
        "the contracts of other programs that run our images; the stores are behind ports/",
        *(*BASE, "metadata", "rpc", "obs"),
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
        "client commands speak to a daemon over its socket; `serve` starts one through daemon.py; "
        "`doctor` reads hosts.toml and credential providers as it does",
        *(*BASE, "rpc", "config", "obs", "mounting", "daemon", "registry.hosts", "registry.auth"),
    ),
    "decryption": room(
        "unwraps keys; what is decrypted by them, and for whom, others know", *BASE, "rpc"
    ),
    "starting": room(
        "starting.py brings the stores up; what serves clients is daemon.py's",
        *(*BASE, "decryption", "metadata", "content", "snapshots", "layers", "images"),
        *("obs", "config", "process", "trash", "mounting"),
    ),
    "linking": room(
        "linking.py brings the runtimes together with what they run; daemon.py uses it",
        *(*BASE, "cri", "runtimes", "obs", "config", "process", "starting"),
    ),
    "monitoring": room(
        "monitoring.py brings figures to whoever watches; daemon.py uses it",
        *(*BASE, "metadata", "registry", "images", "obs", "config", "process", "starting"),
    ),
    "serving": room(
        "serving.py puts the gRPC faces over what daemon.py has made",
        *(*BASE, "registry", "images", "cri", "obs", "config", "starting", "upkeep"),
    ),
    "upkeep": room(
        "upkeep.py brings together what the node does by itself; daemon.py uses it",
        *(*BASE, "registry", "images", "config", "starting"),
    ),
    "daemon": room(
        "daemon.py wires every room, and no room knows the command line",
        *(*BASE, "registry", "images", "cri", "rpc", "obs", "config", "process", "systemd"),
        *("reloading", "starting", "linking", "monitoring", "serving", "upkeep"),
    ),
}
"""ARCHITECTURE.md's table of rooms. A room may always import itself."""

_BY_PLACE = "its own files know one another alone: it can be read without the rest of the room"
_TOP_OF_ROOM = "brings the parts of its room together"

SUB_ROOMS = {
    "registry/hosts": room(_BY_PLACE),
    "registry/http": room(
        "one request to one host; whose login it carries, and which host is next, others decide",
        *("registry.hosts", "registry.failures", "registry.error_bodies"),
    ),
    "registry/auth": room(
        "logins need requests of their own, but neither images nor mirrors",
        *("registry.hosts", "registry.http", "registry.options", "registry.failures"),
        "registry.retry",
    ),
    "config/migrate": room(
        "reads other programs' files; what we can say ourselves is the room's",
        *("config.load", "config.options"),
    ),
    "images/transfers": room(
        "one blob or one layer, whichever image wants it",
        *("images.pull.plan", "images.stores", "images.leases", "images.timeline"),
        "images.reports",
    ),
    "images/verification": room(
        "whether an image may be pulled; what is done with it then, others know",
        *("images.store", "images.documents"),
    ),
    "images/pull": room(
        "one image; what keeps the store healthy comes after it",
        "images.verification",
        *("images.transfers", "images.store", "images.stores", "images.leases", "images.events"),
        *("images.timeline", "images.reports"),
        *("images.publishing", "images.usage", "images.volume", "images.gc", "images.handlers"),
        "images.health.durability",
    ),
    "images/archives": room(
        "an import is a pull whose registry is a file, and verified as one",
        "images.verification",
        *("images.pull", "images.transfers", "images.leases", "images.stores", "images.gc"),
        *("images.store", "images.handlers", "images.health.rebuild"),
    ),
    "images/preload": room(
        "an import or a pull, as a client might have asked for it",
        *("images.archives", "images.pull", "images.handlers", "images.pins", "images.store"),
        *("images.publishing", "images.reports"),
    ),
    "images/policy": room(
        "which images go; how one goes, the room knows", "images.remove", "images.store"
    ),
    "images/health": room(_TOP_OF_ROOM, "images"),
    "snapshots/proxies": room(
        "a client of other programs; what is sealed and kept is as everywhere in the room",
        *("snapshots.backend", "snapshots.measuring", "snapshots.overlay", "snapshots.seal"),
        *("snapshots.stored", "snapshots.tasks"),
    ),
    "layers/tar": room(_BY_PLACE),
    "layers/decode": room(_BY_PLACE),
    "layers/sinks": room("a sink is given entries, and knows no decoder", "layers.tar"),
    "layers/worker": room(_TOP_OF_ROOM, "layers"),
    "runtimes/containerd": room(
        "one runtime's contract; what any runtime is told of an image is the room's",
        "runtimes.images",
    ),
    "runtimes/containers_storage": room(
        "one runtime's contract; what any runtime is told of an image is the room's",
        "runtimes.images",
    ),
    "cli/setup": room(_BY_PLACE),
    "cli/commands": room("each command stands on the shared parts of the command line", "cli"),
}
"""The folders inside the rooms: what each may import of its own room. What it may of other rooms
is its room's row. A room's own files may import all of it."""

GRPC = {"rpc", "cri", "cli", "runtimes", "snapshots/proxies", "decryption", "daemon"}
"""Rooms that may know gRPC."""


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file belongs to: its folder under the package, or its own name."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def sub_room_of(module: str) -> str:
    """The folder inside a room that a module without the package's name belongs to, or ""."""
    parts = module.split(".")[:2]
    return "/".join(parts) if len(parts) == 2 and SOURCE.joinpath(*parts).is_dir() else ""


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
    inside = sub_room_of(".".join(path.relative_to(SOURCE).parent.parts))
    for line, name in imports(path, tree):
        top, _, rest = name.partition(".")
        if top == "grpc" and GRPC.isdisjoint((here, inside)):
            yield f"{shown}:{line} imports {name}: only {', '.join(sorted(GRPC))} may know gRPC"
        there = rest.partition(".")[0]
        if top != PACKAGE or not there:
            continue
        if there == here:
            plan = SUB_ROOMS.get(inside)
            if plan and inside != sub_room_of(rest) and not plan.allows(rest):
                yield f"{shown}:{line} imports {name}: {plan.because}"
            continue
        if there not in ROOMS:
            continue
        if here not in ROOMS:
            yield f"{shown}:{line}: {here} is no room of ARCHITECTURE.md's table; add it there"
        elif not ROOMS[here].allows(rest):
            yield f"{shown}:{line} imports {name}: {ROOMS[here].because}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_plan(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path))
    assert list(forbidden(path, tree)) == []


def unused(rooms: Mapping[str, Room], inside: bool) -> Iterator[str]:
    """Each arrow of a table that no import takes. What every room may use need not be used."""
    taken: dict[str, set[str]] = defaultdict(set)
    for path in sources():
        here, folder = room_of(path), ".".join(path.relative_to(SOURCE).parent.parts)
        for _, name in imports(path, ast.parse(path.read_text())):
            rest = name.removeprefix(f"{PACKAGE}.")
            if (rest.partition(".")[0] == here) is inside:
                taken[sub_room_of(folder) if inside else here].add(f"{rest}.")
    for name, room in rooms.items():
        for arrow in sorted(room.may - BASE):
            if not any(each.startswith(f"{arrow}.") for each in taken[name]):
                yield f"{name} -> {arrow}"


def test_every_arrow_of_the_plan_is_taken() -> None:
    found = [*unused(ROOMS, inside=False), *unused(SUB_ROOMS, inside=True)]
    assert found == [], "take it out here and in ARCHITECTURE.md"


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in sources()} - {"__init__", "__main__"}
    assert rooms - set(ROOMS) == set(), "give new rooms a row here and in ARCHITECTURE.md"


def test_every_folder_inside_a_room_is_in_the_table() -> None:
    folders = {
        f"{path.parent.parent.name}/{path.parent.name}"
        for path in SOURCE.glob("*/*/__init__.py")
        if path.relative_to(SOURCE).parts[0] != "rpc"
    }
    assert folders == set(SUB_ROOMS), "give new folders a row here and in ARCHITECTURE.md"


def written() -> Iterator[tuple[str, str, ast.Module]]:
    """(name, text, tree) of every file that is not generated."""
    for path in sources():
        if room_of(path) != "rpc":
            text = path.read_text()
            yield str(path.relative_to(SOURCE)), text, ast.parse(text)


def parameters(node: ast.ClassDef) -> int:
    """What a class's constructor takes."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            given = item.args
            return len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - 1
    return 0


def too_long(name: str, text: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(where, how long) of what in a file holds more than one purpose."""
    if (lines := len(text.splitlines())) > LONGEST_FILE:
        yield name, f"{lines} lines"
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    yield f"{name} {node.name}()", f"{lines} lines"
            case ast.ClassDef() if (count := parameters(node)) > WIDEST_CONSTRUCTOR:
                yield f"{name} {node.name}", f"{count} parameters"


def test_nothing_holds_two_things() -> None:
    found = dict(each for file in written() for each in too_long(*file))
    assert found == {}, "split by purpose"


def test_few_lines_are_hidden_from_the_type_checker() -> None:
    ignores = [
        f"{name}:{number}"
        for name, text, _ in written()
        for number, line in enumerate(text.splitlines(), 1)
        if "# type: ignore" in line
    ]
    assert len(ignores) <= MOST_IGNORES, ignores


def misspoken(name: str, tree: ast.Module) -> Iterator[str]:
    """Log events that are not one constant sentence; what changes belongs into fields, so that
    the same event is found by the same words."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Name(id="log" | "_log" | "logger"),
                    attr="debug" | "info" | "warning" | "error" | "exception",
                )
            ):
                event = node.args[0] if len(node.args) == 1 else None
                if not (
                    isinstance(event, ast.Constant)
                    and isinstance(event.value, str)
                    and LOG_EVENT.fullmatch(event.value)
                ):
                    yield f"{name}:{node.lineno}"


def test_the_log_speaks_in_constant_sentences() -> None:
    assert [each for name, _, tree in written() for each in misspoken(name, tree)] == []


@pytest.mark.parametrize(
    "call", ['log.info(f"pulled {name}")', 'log.info("registry.failed")', 'log.info("a", 1)']
)
def test_the_check_finds_a_log_event_in_another_form(call: str) -> None:
    assert list(misspoken("a.py", ast.parse(call))) == ["a.py:1"]


@pytest.mark.parametrize(
    ("file", "code", "word"),
    [
        ("registry/distribution.py", "from cri_imaged.content import store", "ports/"),
        ("registry/distribution.py", "from cri_imaged import content", "ports/"),
        ("registry/distribution.py", "from ..content.store import Store", "ports/"),
        ("layers/tar/reader.py", "def f():\n    import cri_imaged.snapshots.overlay", "ports/"),
        ("errors.py", "from cri_imaged.ports import Lease", "taxonomy"),
        ("images/pull/puller.py", "import grpc", "gRPC"),
        ("cri/server.py", "from cri_imaged.content.store import Store", "images/"),
        ("config/load.py", "from cri_imaged.registry.distribution import Client", "values"),
        (
            "layers/tar/reader.py",
            "from cri_imaged.layers.decode import decompress",
            "its own files",
        ),
        ("registry/hosts/toml.py", "from cri_imaged.registry.http.tls import Tls", "its own files"),
        ("attic/old.py", "from cri_imaged import errors", "no room"),
    ],
)
def test_the_check_finds_a_forbidden_import(file: str, code: str, word: str) -> None:
    (found,) = forbidden(SOURCE / file, ast.parse(code))
    assert word in found


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("registry/distribution.py", "from cri_imaged.ports import Resolver"),
        ("registry/distribution.py", "from . import auth\nfrom .auth import token"),
        ("layers/sinks/directory.py", "from cri_imaged.layers.tar.entry import Entry"),
        ("layers/apply.py", "from cri_imaged.layers.decode import decompress"),
        ("content/store.py", "from cri_imaged.metadata.repository import Repository"),
        ("cri/server.py", "import grpc\nfrom cri_imaged import __version__"),
        ("registry/distribution.py", "import aiohttp"),
        ("config/load.py", "from cri_imaged.registry.options import RegistryOptions"),
    ],
)
def test_the_check_allows_what_the_plan_allows(file: str, code: str) -> None:
    assert list(forbidden(SOURCE / file, ast.parse(code))) == []


ROWS = {f"metadata.{name}" for name in ("snapshots", "views", "provenance", "runtime_snapshots")}
"""Modules of a snapshot's rows: for snapshots/ and metadata/ alone."""
_STATEMENT = re.compile(r"\b(SELECT\b.+\bFROM|INSERT\b.+\bINTO|DELETE\s+FROM|UPDATE\b.+\bSET)\b")


def spelled_rows(path: Path, tree: ast.AST) -> Iterator[str]:
    """Where a file goes round the Snapshotter to its rows, or has SQL of its own."""
    here, shown = room_of(path), path.relative_to(SOURCE.parent)
    for line, name in imports(path, tree):
        module = name.removeprefix(f"{PACKAGE}.")
        if here not in ("metadata", "snapshots") and any(
            f"{module}.".startswith(f"{each}.") for each in ROWS
        ):
            yield f"{shown}:{line} imports {module}: ask the Snapshotter"
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if here != "metadata" and isinstance(text, str) and _STATEMENT.search(text):
            yield f"{shown}:{node.lineno} has SQL: rows are spelled in metadata/ alone"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nobody_goes_round_the_snapshotter(path: Path) -> None:
    assert list(spelled_rows(path, ast.parse(path.read_text(), str(path)))) == []


@pytest.mark.parametrize(
    "code",
    [
        "from cri_imaged.metadata import blobs, snapshots",
        "from cri_imaged.metadata.provenance import add",
        "query = 'SELECT sum(bytes) FROM snapshots'",
        "query = f'UPDATE snapshots SET {what} = 1'",
    ],
)
def test_the_check_finds_whoever_goes_round_the_snapshotter(code: str) -> None:
    assert len(list(spelled_rows(SOURCE / "images/gc.py", ast.parse(code)))) == 1
