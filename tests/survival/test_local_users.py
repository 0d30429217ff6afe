"""Any local user reads nothing of a store, and can stop nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.store import walk
from tests.survival.conftest import Scratch
from tests.survival.samples import family
from tests.survival.victim import Source, Victim

OTHERS = 0o077
HOLD = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=[0o000, 0o022])
def careless(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever starts the daemon has this umask."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(root: Path) -> dict[str, str]:
    """What other users may do with what is in a store, but for the trees of images in it, which
    they cannot reach."""
    return {
        str(path.relative_to(root)): f"{stat.S_IMODE(info.st_mode):04o}"
        for path, info in [(root, root.lstat()), *walk(root)]
        if "fs" not in path.relative_to(root).parts
        and stat.S_IMODE(info.st_mode) & OTHERS
        and not stat.S_ISLNK(info.st_mode)
    }


@pytest.mark.parametrize("snapshotter", ["overlay", "native", "erofs"])
@pytest.mark.usefixtures("careless")
def test_a_store_is_closed_to_other_users(
    source: Source, scratch: Scratch, snapshotter: str
) -> None:
    directory = scratch("private")
    reference = source.add(family(1)[0], f"{source.place()}/a:1")
    with Victim(directory, snapshotter) as victim:
        victim.pull(reference)
        assert open_to_others(victim.root) == {}


def test_what_was_open_is_closed_at_the_start(source: Source, scratch: Scratch) -> None:
    """An ordinary user may even hold a lock on the directory since."""
    directory = scratch("private")
    reference = source.add(family(1)[0], f"{source.place()}/a:1")
    with Victim(directory, "native") as victim:
        victim.pull(reference)
    for folder, folders, files in os.walk(victim.root):
        if Path(folder).name == "native":
            folders.clear()
        os.chmod(folder, 0o755)
        for name in files:
            os.chmod(Path(folder, name), 0o644)
    directory.chmod(0o755)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    holder = subprocess.Popen(
        [*command, sys.executable, "-c", HOLD, str(victim.root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with victim:
            assert victim.pull(reference)
            assert open_to_others(victim.root) == {}
    finally:
        holder.kill()
        holder.wait()


def test_a_second_daemon_is_refused(source: Source, scratch: Scratch) -> None:
    with Victim(scratch("private"), "native") as victim:
        second = subprocess.run(victim.process.command, capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert "another daemon uses" in second.stdout + second.stderr
