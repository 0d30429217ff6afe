"""Directories and files for this user alone: images hold secrets, and whoever may open a file of a
store can hold a lock on it that stops the daemon."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def private_directory(path: Path) -> None:
    """Make the directory where it is missing, and close it to others where it is open to them.

    Raises:
        OSError
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_to_others(path)


def close_to_others(path: Path) -> None:
    """Take from others what they may do with a file or directory.

    Raises:
        OSError: it is not this user's, or it is gone.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        os.chmod(path, mode & 0o700)
