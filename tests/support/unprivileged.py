"""Running a program as nobody, wherever the interpreter and the checkout happen to be."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.require import require_real

CHECKOUT = Path(__file__).parents[2]


def as_nobody(command: Sequence[str], *needed: Path) -> list[str]:
    """`command`, to be run by root, as the user nobody without any capability.

    Folders that nobody may not pass (a home with an interpreter in it) are passable in the
    program's own mount namespace, which shows of them what the program needs and nothing else.
    """
    require_real(os.geteuid() == 0, "only root can become nobody")
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    drop += ["--inh-caps=-all", "--bounding-set=-all"]
    paths = [Path(sys.base_prefix), Path(sys.prefix), CHECKOUT, *needed]
    lines = ["set -e"]
    for barrier in sorted({found for path in paths if (found := _barrier(path.resolve()))}):
        behind = [path.resolve() for path in paths if path.resolve().is_relative_to(barrier)]
        lines += _open_up(barrier, sorted(set(behind)))
    lines.append(f"exec {shlex.join([*drop, *command])}")
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(lines)]


def _barrier(path: Path) -> Path | None:
    """The topmost folder on the way that others may not pass."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None


def _open_up(barrier: Path, behind: Sequence[Path]) -> list[str]:
    stash, folder = "/mnt/stash", shlex.quote(str(barrier))
    lines = ["mount -t tmpfs -o mode=755 stash /mnt", f"mkdir {stash}"]
    lines += [f"mount --rbind {folder} {stash}", f"mount -t tmpfs -o mode=755 passable {folder}"]
    for path in behind:
        inner, name = shlex.quote(str(path.relative_to(barrier))), shlex.quote(str(path))
        lines += [f"mkdir -p {name}", f"mount --rbind {stash}/{inner} {name}"]
    return lines
