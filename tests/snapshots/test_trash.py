"""The trash gives space back whatever is thrown in."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from pathlib import Path

import pytest

from cri_imaged.trash import Trash, remove_tree
from tests.support.require import require_real


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def immutable(path: Path, *, on: bool) -> bool:
    """Whether the file could be made immutable, or mutable again."""
    command = ["chattr", "+i" if on else "-i", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def deep(root: Path, depth: int) -> None:
    """A chain of directories too deep for a path."""
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)


async def test_what_is_put_is_removed(tmp_path: Path) -> None:
    trash = Trash(tmp_path / "trash")
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/b/file").write_text("x")
    (tmp_path / "tree/link").symlink_to("/")
    (tmp_path / "file").touch()
    deep(tmp_path / "deep", 3000)
    for name in ("tree", "file", "deep", "not there"):
        trash.put(tmp_path / name)
    assert names(tmp_path) == ["trash"]
    await trash.drain()
    assert not names(tmp_path / "trash")
    trash.close()
    trash.close()


async def test_what_too_many_open_files_keep_from_being_removed_is_removed_later(
    tmp_path: Path,
) -> None:
    trash = Trash(tmp_path / "trash")
    (tmp_path / "tree/a").mkdir(parents=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        trash.put(tmp_path / "tree")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(trash.drain(), 0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await trash.drain()
    assert not names(tmp_path / "trash")
    trash.close()


async def test_links_are_removed_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "hello").write_text("hello")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(victim)
    (tree / "up").symlink_to("..")
    trash = Trash(tmp_path / "trash")
    trash.put(tree)
    (tmp_path / "alone").symlink_to(victim)
    trash.put(tmp_path / "alone")
    await trash.drain()
    trash.close()
    assert (victim / "hello").read_text() == "hello"
    assert not names(tmp_path / "trash")


async def test_leftovers_are_removed_at_the_next_start(tmp_path: Path) -> None:
    first = Trash(tmp_path / "trash")
    first.close()
    (tmp_path / "tree/inner").mkdir(parents=True)
    first.put(tmp_path / "tree")
    assert names(tmp_path / "trash")
    second = Trash(tmp_path / "trash")
    await second.drain()
    second.close()
    assert not names(tmp_path / "trash")


async def test_modes_do_not_keep_anything(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed/inner").mkdir(parents=True)
    (tree / "closed/inner/file").touch()
    (tree / "read-only/inner").mkdir(parents=True)
    os.chmod(tree / "closed/inner", 0)
    os.chmod(tree / "closed", 0)
    os.chmod(tree / "read-only", 0o555)
    trash = Trash(tmp_path / "trash")
    trash.put(tree)
    await trash.drain()
    trash.close()
    assert not names(tmp_path / "trash")


async def test_what_cannot_be_removed_holds_up_nothing_else(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root makes a file immutable")
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "b").mkdir()
    for name in ("a/stuck", "a/other", "b/other"):
        (tree / name).touch()
    require_real(immutable(tree / "a/stuck", on=True), "the file system has no immutable files")
    (tmp_path / "later").mkdir()
    trash = Trash(tmp_path / "trash")
    try:
        trash.put(tree)
        trash.put(tmp_path / "later")
        await trash.drain()
        assert [path.name for path in files(tmp_path / "trash")] == ["stuck"]
    finally:
        for path in files(tmp_path):
            immutable(path, on=False)
        trash.close()
    again = Trash(tmp_path / "trash")
    await again.drain()
    again.close()
    assert not names(tmp_path / "trash")


def test_removing_what_is_not_there_succeeds(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


def test_a_failure_is_raised_after_the_rest_is_gone(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    busy = tmp_path / "tree/busy"
    busy.mkdir(parents=True)
    (tmp_path / "tree/file").touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", busy], check=True)
    try:
        with pytest.raises(OSError, match="busy"):
            remove_tree(tmp_path / "tree")
        assert names(tmp_path / "tree") == ["busy"]
    finally:
        subprocess.run(["umount", busy], check=True)
