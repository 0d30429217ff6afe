"""The store's files: replaced as a whole, under the locks that its readers respect."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cri_imaged.errors import InUseError
from cri_imaged.runtimes.containers_storage.records import Entry

_MARK_BYTES = 64
"""What a lock file begins with: readers read the list again when it differs."""
_LOCK_SECONDS = 2.0


@contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[int]:
    """Hold a lock file's POSIX record lock; gives its descriptor.

    Raises:
        InUseError: somebody else holds it for long.
    """
    flags = os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        _lock(fd, path, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, path: Path, kind: int) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.lockf(fd, kind | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
        if time.monotonic() > end:
            raise InUseError(f"{path} is locked by another program for more than 2 s")
        time.sleep(0.01)


def write_list(directory: Path, name: str, entries: Sequence[Entry]) -> None:
    """Replace `directory/NAME.json`, and say so in `NAME.lock`.

    Raises:
        InUseError: readers hold the lock for long.
    """
    with locked(directory / f"{name}.lock", exclusive=True) as fd:
        os.pwrite(fd, secrets.token_bytes(_MARK_BYTES), 0)
        replace(directory / f"{name}.json", json.dumps(list(entries)).encode())


def read_list(directory: Path, name: str) -> list[Entry]:
    """What `directory/NAME.json` says; nothing where it is not there or no list."""
    try:
        found = json.loads((directory / f"{name}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    return found if isinstance(found, list) else []


def replace(path: Path, data: bytes) -> None:
    """Write a file as a whole."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(0o600)
    new.rename(path)


def link(path: Path, target: str) -> None:
    """Have `path` be a symbolic link to exactly `target`."""
    try:
        if os.readlink(path) == target:
            return
    except OSError:
        pass
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(path)
