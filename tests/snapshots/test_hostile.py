"""Layers whose seal tries to reach, read or change something outside the root.

The oracle: beside the root stands `victim/hello`; after any commit, accepted or refused, it is as
it was, and its bytes are nowhere under the root.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError, LimitExceededError
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import Applied
from tests.snapshots.conftest import require_snapshotter
from tests.snapshots.model import scan
from tests.snapshots.workbench import CLASSES, Bench, applied, memory, scratch

SECRET = b"the victim's bytes"
TOP = Digest.of(b"top")


@dataclass(frozen=True)
class Scene:
    bench: Bench
    victim: Path

    async def below(self, fill: Callable[[Path], None]) -> Digest:
        """A committed layer, filled by hand."""
        directory = await self.bench.prepare("below")
        fill(directory)
        await self.bench.commit(Digest.of(b"below"), "below", None, applied())
        return Digest.of(b"below")

    async def seal(
        self, parent: Digest | None, result: Applied, fill: Callable[[Path], None] | None = None
    ) -> None:
        directory = await self.bench.prepare("top", parent)
        if fill is not None:
            fill(directory)
        await self.bench.commit(TOP, "top", parent, result)

    def unharmed(self) -> None:
        hello = self.victim / "hello"
        assert hello.read_bytes() == SECRET
        assert os.stat(hello).st_mode & 0o7777 == 0o604
        assert os.stat(hello).st_nlink == 1
        assert os.stat(self.victim).st_mode & 0o7777 == 0o705
        assert os.listdir(self.victim) == ["hello"]
        assert os.listxattr(self.victim) == []
        assert sorted(os.listdir(self.victim.parent)) == ["root", "victim"]
        for node in scan(self.bench.directory).values():
            assert SECRET not in node.content or node.kind != "file"


@pytest.fixture(params=sorted(CLASSES))
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    require_snapshotter(request.param)
    with scratch(memory()) as directory:
        victim, root = directory / "victim", directory / "root"
        victim.mkdir()
        root.mkdir()
        (victim / "hello").write_bytes(SECRET)
        (victim / "hello").chmod(0o604)
        victim.chmod(0o705)
        async with Bench.open(root, request.param) as bench:
            scene = Scene(bench, victim)
            yield scene
            scene.unharmed()


def link_to(target: str) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        (directory / "evil").symlink_to(target)

    return fill


def targets(scene: Scene) -> list[str]:
    """Ways from a layer's root, or from the file system's, to the victim."""
    up = os.path.relpath(scene.victim, scene.bench.directory / "1/fs")
    return [str(scene.victim), up, f"/{up}", f"{'../' * 40}{str(scene.victim)[1:]}"]


WAYS = range(4)
PATHS_OUT = [
    b"../victim/hello",
    b"/etc/passwd",
    b"a/../../victim/hello",
    b"a//b",
    b"a/./b",
    b"..",
    b".",
    b"a/",
    b"/",
    b"a\0b",
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_lower_link_is_not_followed_by_what_goes_through_it(scene: Scene, way: int) -> None:
    parent = await scene.below(link_to(targets(scene)[way]))

    def fill(directory: Path) -> None:
        (directory / "evil").mkdir()
        (directory / "evil/new").write_text("new")

    result = applied(
        implicit=(b"", b"evil"), opaques=(b"evil",), whiteouts=(b"evil/hello", b"evil/x/hello")
    )
    await scene.seal(parent, result, fill)
    tree = await scene.bench.tree(TOP)
    assert tree[b"evil"].kind == "directory"
    assert sorted(tree) == [b"", b"evil", b"evil/new"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_hardlink_through_a_lower_link_stays_inside(scene: Scene, way: int) -> None:
    parent = await scene.below(link_to(targets(scene)[way]))
    with pytest.raises(CorruptContentError, match="hardlink 'stolen'"):
        await scene.seal(parent, applied(links=((b"stolen", b"evil/hello"),)))
    assert await scene.bench.snapshotter.info(TOP) is None


async def test_a_hardlink_to_a_lower_link_is_that_link(scene: Scene) -> None:
    parent = await scene.below(link_to(f"{scene.victim}/hello"))
    await scene.seal(parent, applied(links=((b"copy", b"evil"),)))
    node = (await scene.bench.tree(TOP))[b"copy"]
    assert (node.kind, node.content) == ("symlink", os.fsencode(f"{scene.victim}/hello"))


async def test_links_inside_the_root_lead_to_their_target(scene: Scene) -> None:
    def fill(directory: Path) -> None:
        (directory / "usr/lib").mkdir(parents=True)
        (directory / "usr/lib/f").write_text("f")
        (directory / "lib").symlink_to("usr/lib")
        (directory / "absolute").symlink_to("/lib")
        (directory / "usr/up").symlink_to("../../../../lib/../lib")

    parent = await scene.below(fill)
    links = ((b"1", b"lib/f"), (b"2", b"absolute/f"), (b"3", b"usr/up/f"))
    await scene.seal(parent, applied(links=links))
    tree = await scene.bench.tree(TOP)
    assert [tree[name].content for name, _ in links] == [b"f"] * 3


async def test_links_that_lead_in_circles_end(scene: Scene) -> None:
    def fill(directory: Path) -> None:
        (directory / "a").symlink_to("b")
        (directory / "b").symlink_to("a")
        (directory / "self").symlink_to("self/self")
        for number in range(300):
            (directory / f"chain-{number}").symlink_to(f"chain-{number + 1}")

    parent = await scene.below(fill)
    for target in (b"a/f", b"self/f", b"chain-0/f"):
        with pytest.raises(LimitExceededError, match="symbolic links"):
            await scene.seal(parent, applied(links=((b"x", target),)))


@pytest.mark.parametrize("field", ["whiteouts", "opaques", "implicit"])
@pytest.mark.parametrize("path", PATHS_OUT)
async def test_paths_that_leave_the_layer_are_refused(
    scene: Scene, field: str, path: bytes
) -> None:
    parent = await scene.below(lambda directory: (directory / "a").mkdir())
    with pytest.raises(CorruptContentError, match="does not stay"):
        await scene.seal(parent, applied(**{field: (path,)}))


@pytest.mark.parametrize("path", PATHS_OUT)
@pytest.mark.parametrize("end", [0, 1])
async def test_hardlinks_that_leave_the_layer_are_refused(
    scene: Scene, path: bytes, end: int
) -> None:
    def fill(directory: Path) -> None:
        (directory / "a").mkdir()
        (directory / "a/b").touch()

    parent = await scene.below(fill)
    link = (path, b"a/b") if end == 0 else (b"x", path)
    with pytest.raises(CorruptContentError):
        await scene.seal(parent, applied(links=(link,)))


@pytest.mark.parametrize(
    "result",
    [
        applied(whiteouts=(b"",)),
        applied(links=((b"", b"a"),)),
        applied(links=((b"x", b""),)),
        applied(links=((b"x", b"a"),)),
        applied(links=((b"x", b"missing"),)),
        applied(links=((b"x", b"x"),)),
        applied(links=((b"own", b"f"),)),
        applied(links=((b"own/x", b"f"),)),
        applied(implicit=(b"missing",)),
        applied(implicit=(b"own",)),
        applied(opaques=(b"own",), implicit=(b"own",)),
    ],
)
async def test_what_an_honest_applier_would_not_report(scene: Scene, result: Applied) -> None:
    def below(directory: Path) -> None:
        (directory / "a").mkdir()
        (directory / "f").touch()

    parent = await scene.below(below)
    with pytest.raises(CorruptContentError):
        await scene.seal(parent, result, lambda directory: (directory / "own").touch())
    await scene.bench.trash.drain()
    assert len(scene.bench.left()) == 1


@pytest.mark.parametrize(
    "result",
    [
        applied(implicit=(b"d",)),
        applied(opaques=(b"d",)),
        applied(whiteouts=(b"d/hello",)),
        applied(whiteouts=(b"d/new",)),
        applied(links=((b"d/new", b"f"),)),
        applied(links=((b"stolen", b"d/hello"),)),
        applied(links=((b"one", b"f"), (b"stolen", b"d/hello"))),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_link_where_the_applier_reports_a_directory(
    scene: Scene, result: Applied, way: int
) -> None:
    def below(directory: Path) -> None:
        (directory / "d").mkdir()
        for name in ("f", "d/hello", "d/new"):
            (directory / name).write_text("lower")

    parent = await scene.below(below)

    def fill(directory: Path) -> None:
        (directory / "d").symlink_to(targets(scene)[way])

    try:
        await scene.seal(parent, result, fill)
    except CorruptContentError:
        assert await scene.bench.snapshotter.info(TOP) is None
    else:
        tree = await scene.bench.tree(TOP)
        assert tree[b"d"].kind == "symlink"


async def test_many_targets_through_many_links_end(scene: Scene) -> None:
    """Each target is allowed, all of them together would take hours."""
    long_way = "d/../" * 800

    def fill(directory: Path) -> None:
        (directory / "d").mkdir()
        (directory / "d/file").touch()
        for number in range(100):
            (directory / f"s{number}").symlink_to(f"{long_way}s{number + 1}")
        (directory / "s100").symlink_to("d")

    parent = await scene.below(fill)
    honest = tuple((b"x%d" % number, b"s1/file") for number in range(1000))
    await scene.seal(parent, applied(links=honest))
    assert (await scene.bench.tree(TOP))[b"x999"].kind == "file"
    await scene.bench.prepare("odd", parent)
    odd = applied(links=tuple((b"x%d" % number, b"s%d/file" % number) for number in range(100)))
    with pytest.raises(LimitExceededError, match="symbolic links"):
        await scene.bench.commit(Digest.of(b"odd"), "odd", parent, odd)
