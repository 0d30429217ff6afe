"""Mounts that users make of views: large ones, read-only ones, refused ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_imaged import mounting
from cri_imaged.ports import Mount
from tests.support.require import require_real


@pytest.fixture(autouse=True)
def root() -> None:
    require_real(os.geteuid() == 0, "mounting needs root")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "target"
    target.mkdir()
    yield target
    while any(info.mount_point == str(target) for info in mounting.mounts()):
        mounting.unmount(target, lazy=True)


def layers(base: Path, count: int) -> list[str]:
    paths = [base / f"{number}/fs" for number in range(count)]
    for number, path in enumerate(paths):
        path.mkdir(parents=True)
        (path / f"only-{number}").touch()
        (path / "which").write_text(str(number))
    return [str(path) for path in paths]


@pytest.mark.parametrize("count", [2, 129, 300, 500])
@pytest.mark.parametrize("depth", [0, 8], ids=["short root", "long root"])
def test_every_layer_is_in_the_mount(tmp_path: Path, target: Path, count: int, depth: int) -> None:
    base = tmp_path.joinpath(*["long name " * 20] * depth)
    lower = layers(base, count)
    what = Mount("overlay", "overlay", (f"lowerdir={':'.join(lower)}", "ro"))
    cwd = os.getcwd()
    mounting.mount(what, target)
    assert os.getcwd() == cwd
    assert {path.name for path in target.iterdir()} == {
        "which",
        *(f"only-{number}" for number in range(count)),
    }
    assert (target / "which").read_text() == "0"
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    mounting.unmount(target)
    assert not list(target.iterdir())


def test_a_large_overlay_with_names_that_fit_no_page(tmp_path: Path, target: Path) -> None:
    base = tmp_path / "layers"
    paths = [base / f"{'n' * 60}{number}" for number in range(200)]
    for number, path in enumerate(paths):
        path.mkdir(parents=True)
        (path / f"only-{number}").touch()
    upper, work = base / "upper", base / "work"
    upper.mkdir()
    work.mkdir()
    options = (
        f"lowerdir={':'.join(map(str, paths))}",
        f"upperdir={upper}",
        f"workdir={work}",
        "volatile",
    )
    mounting.mount(Mount("overlay", "overlay", options), target)
    assert len(list(target.iterdir())) == 200
    (target / "new").touch()
    assert [path.name for path in upper.iterdir()] == ["new"]
    (mounted,) = (info for info in mounting.mounts() if info.mount_point == str(target))
    assert any(option.endswith("volatile") for option in mounted.options)


def test_a_refused_large_mount_says_why(tmp_path: Path, target: Path) -> None:
    paths = [tmp_path / f"{'n' * 60}{number}" for number in range(200)]
    options = (f"lowerdir={':'.join(map(str, paths))}",)
    with pytest.raises(OSError, match=str(target)) as refused:
        mounting.mount(Mount("overlay", "overlay", options), target)
    assert refused.value.errno == errno.ENOENT
    assert str(target) not in [info.mount_point for info in mounting.mounts()]


def test_a_bind_mount_is_read_only_where_asked(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mounting.mount(Mount("bind", str(source), ("bind", "ro")), target)
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    (source / "new").touch()
    mounting.unmount(target)
    mounting.mount(Mount("bind", str(source), ("rbind", "rw")), target)
    (target / "newer").touch()
    assert sorted(path.name for path in source.iterdir()) == ["new", "newer"]


def test_an_unmounted_directory_cannot_be_unmounted(target: Path) -> None:
    with pytest.raises(OSError, match=f"unmount {target}"):
        mounting.unmount(target)


def test_names_in_mountinfo_are_unescaped(target: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b\tc\\d\x0ce\u2028f\rg"
    odd.mkdir()
    mounting.mount(Mount("bind", str(odd), ("bind", "ro")), odd)
    try:
        assert str(odd) in [info.mount_point for info in mounting.mounts()]
    finally:
        mounting.unmount(odd)


def test_overlay_is_tried_not_guessed(tmp_path: Path) -> None:
    assert mounting.overlay_obstacle(tmp_path) is None
    assert not list(tmp_path.iterdir())
    colon = tmp_path / "a:b"
    colon.mkdir()
    assert "character" in (mounting.overlay_obstacle(colon) or "")
    assert mounting.overlay_obstacle(Path("/proc/self"))
