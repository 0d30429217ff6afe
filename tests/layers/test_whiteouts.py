"""Whiteouts and opaque directories, against a dictionary that knows nothing of file systems.

The rules: whiteouts and opaques speak of the layers below, wherever in the layer they stand.
Whiteouts make nothing; an opaque makes its directory, unless the layer hides that.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.layers.sinks.sink import Sealable
from cri_imaged.limits import Limits
from tests.layers.direct import apply_into
from tests.layers.listing import kinds
from tests.support import tarballs as t

Tree = dict[str, str]
"""Path to "lower file", "file", "directory" (listed) or "implicit"."""

LOWER: Tree = {
    "d": "directory",
    "d/x": "lower file",
    "d/y": "lower file",
    "d/e": "directory",
    "d/e/x": "lower file",
    "d/e/f": "directory",
    "d/e/f/z": "lower file",
    "f": "lower file",
    "g": "directory",
    "g/x": "lower file",
}
FILE, DIRECTORY, WHITEOUT, OPAQUE = "file", "directory", "whiteout", "opaque"
Step = tuple[str, str]

SETS: dict[str, list[Step]] = {
    "whiteout and file": [(WHITEOUT, "f"), (FILE, "f")],
    "whiteout and directory": [(WHITEOUT, "d"), (DIRECTORY, "d")],
    "whiteout and implicit directory": [(WHITEOUT, "d"), (FILE, "d/x")],
    "whiteout, directory and entry": [(WHITEOUT, "d"), (DIRECTORY, "d"), (FILE, "d/n")],
    "whiteout inside a whiteout": [(WHITEOUT, "d"), (WHITEOUT, "d/e"), (FILE, "d/n")],
    "whiteout deeper": [(WHITEOUT, "d/e/f"), (FILE, "d/e/n"), (DIRECTORY, "d/e/f")],
    "opaque between entries": [(OPAQUE, "d"), (DIRECTORY, "d"), (FILE, "d/n"), (WHITEOUT, "d/y")],
    "opaque never listed": [(OPAQUE, "d/e"), (FILE, "d/e/n"), (FILE, "d/n")],
    "opaque in opaque": [(OPAQUE, "d"), (OPAQUE, "d/e"), (FILE, "d/e/f/n")],
    "opaque root": [(OPAQUE, ""), (FILE, "d/n"), (WHITEOUT, "f")],
    "file where a directory was": [(FILE, "d"), (WHITEOUT, "d/x")],
    "whiteout of nothing below": [(WHITEOUT, "nothing"), (WHITEOUT, "no/thing")],
    "whiteouts and opaques in a whiteout": [
        (WHITEOUT, "d"),
        (WHITEOUT, "d/x"),
        (OPAQUE, "d/e"),
        (OPAQUE, "d"),
    ],
    "whiteouts in a file": [(FILE, "d/e"), (WHITEOUT, "d/e/x"), (OPAQUE, "d/e/f")],
    "opaque of nothing below": [(OPAQUE, "new"), (FILE, "new/n"), (WHITEOUT, "new/x")],
}
ORDERS = [
    pytest.param(order, id=f"{name} {number}")
    for name, steps in SETS.items()
    for number, order in enumerate(itertools.permutations(steps))
]


def built(steps: Sequence[Step]) -> bytes:
    make = {FILE: t.file, DIRECTORY: t.directory, WHITEOUT: t.whiteout, OPAQUE: t.opaque}
    return t.archive(*(make[what](path) for what, path in steps))


def parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def below(tree: Tree, path: str) -> list[str]:
    return [name for name in tree if not path or name.startswith(path + "/")]


def layer_alone(steps: Sequence[Step]) -> Tree:
    """What the layer itself lists, the last entry of a name winning."""
    own: Tree = {}

    def drop(path: str) -> None:
        for name in [path, *below(own, path)]:
            own.pop(name, None)

    def ensure(path: str, kind: str) -> None:
        if own.get(path) == FILE:
            drop(path)
        if kind == DIRECTORY or path not in own:
            own[path] = kind

    for what, path in steps:
        if what in (WHITEOUT, OPAQUE):
            continue
        for parent in parents(path):
            ensure(parent, "implicit")
        if what == FILE:
            drop(path)
            own[path] = FILE
        else:
            ensure(path, DIRECTORY)
    gone = {path for what, path in steps if what == WHITEOUT} - own.keys()
    for what, path in steps:
        needed = list(filter(None, parents(f"{path}/x"))) if what == OPAQUE else []
        if FILE not in map(own.get, needed) and not gone.intersection(needed):
            for each in needed:
                own.setdefault(each, "implicit")
    return own


def expected(steps: Sequence[Step]) -> Tree:
    """The merged tree: the layers below without what is hidden, under the layer's own entries."""
    merged = dict(LOWER)
    own = layer_alone(steps)
    for what, path in steps:
        if what in (WHITEOUT, OPAQUE):
            for name in below(merged, path):
                del merged[name]
            if what == WHITEOUT:
                merged.pop(path, None)
    for path, kind in own.items():
        if kind == FILE or merged.get(path) == "lower file":
            for name in below(merged, path):
                del merged[name]
        merged[path] = FILE if kind == FILE else DIRECTORY
    return merged


def merged_by(sealable: Sealable, root: Path) -> Tree:
    """The merged tree that a snapshotter makes of what the applier reports."""
    merged = dict(LOWER)
    own = kinds(root)
    for path in map(bytes.decode, sealable.whiteouts):
        assert path not in own
        for name in [path, *below(merged, path)]:
            merged.pop(name, None)
    for path in map(bytes.decode, sealable.opaques):
        assert not path or own[path] == DIRECTORY
        for name in below(merged, path):
            del merged[name]
    for path, kind in own.items():
        if kind == FILE or merged.get(path) == "lower file":
            for name in below(merged, path):
                merged.pop(name)
        merged[path] = kind
    return merged


def expected_implicit(steps: Sequence[Step]) -> set[str]:
    """Directories that are never listed and have something of the same name below: an opaque one
    hides what is in it, not its own attributes; a whiteout hides both."""
    own = layer_alone(steps) | {"": "implicit"}
    directories = {path for path, kind in own.items() if kind in (DIRECTORY, "implicit")}
    hidden = {path for what, path in steps if what in (WHITEOUT, OPAQUE)} & directories
    replaced = {path for what, path in steps if what == WHITEOUT}
    return {
        path
        for path, kind in own.items()
        if kind == "implicit"
        and path not in replaced
        and not hidden.intersection(["", *parents(path)] if path else [])
    }


def check(steps: Sequence[Step], root: Path) -> None:
    sealable = apply_into(root, built(steps))[0].sealable
    assert merged_by(sealable, root) == expected(steps)
    assert {path.decode() for path in sealable.implicit} == expected_implicit(steps)
    assert list(sealable.implicit) == sorted(sealable.implicit, key=lambda path: path.split(b"/"))
    own = kinds(root)
    for path in map(bytes.decode, sealable.implicit):
        assert all(own[parent] == DIRECTORY for parent in parents(path))
    whiteouts = set(map(bytes.decode, sealable.whiteouts))
    for path in whiteouts:
        assert all(own.get(parent, DIRECTORY) == DIRECTORY for parent in parents(path))
        assert not whiteouts.intersection(parents(path))


def test_there_are_enough_orders() -> None:
    assert len(ORDERS) >= 40


@pytest.mark.parametrize("steps", ORDERS)
def test_order(steps: Sequence[Step], tmp_path: Path) -> None:
    check(steps, tmp_path)


PATHS = st.lists(st.sampled_from("defgxn"), min_size=1, max_size=4).map("/".join)
STEPS = st.lists(st.tuples(st.sampled_from([FILE, DIRECTORY, WHITEOUT, OPAQUE]), PATHS))


@given(STEPS)
@example([(WHITEOUT, "d/e/f"), (FILE, "d"), (FILE, "d/d")])
@example([(OPAQUE, "d/e"), (FILE, "d"), (DIRECTORY, "d")])
@settings(max_examples=300, deadline=None)
def test_any_layer(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(steps, Path(folder))


def test_whiteouts_make_nothing(tmp_path: Path) -> None:
    layer = t.archive(t.whiteout("d"), t.whiteout("d/x"), t.opaque("d/e"), t.whiteout("a/b/c"))
    sealable = apply_into(tmp_path, layer)[0].sealable
    assert sealable == Sealable(whiteouts=(b"a/b/c", b"d"), implicit=(b"",))
    assert kinds(tmp_path) == {}


def test_whiteouts_do_not_take_the_place_of_what_the_layer_holds(tmp_path: Path) -> None:
    layer = t.archive(
        *(t.file("f"), t.whiteout("f/x"), t.opaque("f")),
        *(t.hardlink("h", "lower"), t.whiteout("h/x"), t.opaque("h"), t.opaque("h/d")),
        *(t.symlink("s", "gone"), t.whiteout("s/x")),
    )
    sealable = apply_into(tmp_path, layer)[0].sealable
    assert kinds(tmp_path) == {"f": "file", "s": "symlink"}
    assert sealable.links == ((b"h", b"lower"),)
    assert (sealable.whiteouts, sealable.opaques) == ((b"gone/x", b"h/x"), ())


def test_implicit_directories_hidden_from_below_are_root_0755(tmp_path: Path) -> None:
    sealable = apply_into(tmp_path, t.archive(t.whiteout("d"), t.file("d/e/x")))[0].sealable
    assert sealable == Sealable(opaques=(b"d",), implicit=(b"",))
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "d/e").stat().st_mode & 0o7777 == 0o755


def test_whiteout_through_a_symlink_of_the_same_layer(tmp_path: Path) -> None:
    layer = t.archive(t.symlink("s", "/d/e"), t.whiteout("s/x"), t.opaque("s/f"))
    sealable = apply_into(tmp_path, layer)[0].sealable
    assert sealable.whiteouts == (b"d/e/x",)
    assert sealable.opaques == (b"d/e/f",)
    assert sealable.implicit == (b"", b"d", b"d/e", b"d/e/f")


def test_thousands_of_opaques_and_whiteouts(tmp_path: Path) -> None:
    steps = [t.opaque(f"d{n}/e") + t.whiteout(f"d{n}/w") for n in range(5000)]
    sealable = apply_into(tmp_path, t.archive(*steps))[0].sealable
    assert sealable.opaques == tuple(sorted(b"d%d/e" % n for n in range(5000)))
    assert sealable.whiteouts == tuple(sorted(b"d%d/w" % n for n in range(5000)))


def test_hardlink_to_a_layer_below(tmp_path: Path) -> None:
    layer = t.archive(
        t.hardlink("b", "f"),
        t.hardlink("a", "/d/../d/x"),
        t.hardlink("chained", "a"),
        t.hardlink("replaced", "f"),
        t.file("replaced", b"x"),
        t.directory("dropped"),
        t.hardlink("dropped/h", "f"),
        t.file("dropped", b"x"),
        t.hardlink("hidden", "f"),
        t.whiteout("hidden"),
        t.hardlink("parent", "f"),
        t.file("parent/x"),
    )
    sealable = apply_into(tmp_path, layer)[0].sealable
    assert sealable.links == ((b"b", b"f"), (b"a", b"d/x"), (b"chained", b"d/x"), (b"hidden", b"f"))
    assert sealable.whiteouts == ()
    assert set(kinds(tmp_path)) == {"replaced", "dropped", "parent", "parent/x"}


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh."])
def test_whiteout_of_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptContentError, match="whiteout of nothing"):
        apply_into(tmp_path, t.archive(t.file(name)))


@pytest.mark.parametrize("make", [t.whiteout, t.opaque, lambda n: t.hardlink(n, "lower"), t.file])
def test_what_is_left_to_the_seal_is_capped(make: object, tmp_path: Path) -> None:
    entries = [make(f"directory{n}/name") for n in range(100)]  # type: ignore[operator]
    with pytest.raises(LimitExceededError, match="seal_bytes"):
        apply_into(tmp_path, t.archive(*entries), limits=Limits(seal_bytes=2000))
