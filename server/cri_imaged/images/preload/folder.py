"""The folder of archives: what is in it, and whether it is whole."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from cri_imaged.errors import ConfigError, CorruptContentError, LimitExceededError
from cri_imaged.limits import PRELOADED_ARCHIVES
from cri_imaged.unpacked import DamagedError, unpacked

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
LOOK_SECONDS = 5.0
"""Between two looks into the folder."""


class Stamp(NamedTuple):
    """What tells whether a file is the same as before."""

    size: int
    modified: int
    """Nanoseconds, as the file says; may be copied from another file."""
    changed: int
    """Nanoseconds, as the file system says."""


def look(directory: Path) -> dict[str, Stamp]:
    """The archives in the folder, by name. Others, and hidden files, which writers rename when
    they are whole, are passed over.

    Raises:
        ConfigError: it cannot be read, or others may write there.
        LimitExceededError: there are too many.
    """
    found: dict[str, Stamp] = {}
    try:
        refuse_writable(directory, os.stat(directory))
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.endswith(SUFFIXES):
                    with contextlib.suppress(FileNotFoundError):  # it went, or is a dead link
                        found[_text(entry.name)] = _stamp(os.stat(entry.path))
                if len(found) > PRELOADED_ARCHIVES:
                    raise LimitExceededError(
                        f"{directory}: more than {PRELOADED_ARCHIVES} archives of images"
                    )
    except OSError as error:
        raise ConfigError(
            f"image.preload.directory: {directory} cannot be read: {error.strerror}"
        ) from None
    return found


def refuse_writable(path: Path, status: os.stat_result) -> None:
    """Raises `ConfigError` where others than root and this user may change what is there: whoever
    brings an image in under some name says what runs under it."""
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: others may write there, and so could replace any image: have it owned by "
            "root, and run chmod go-w"
        )


def is_whole(stamp: Stamp, before: Stamp | None, now: float) -> bool:
    """Whether nobody writes the file any more, as far as can be told: nothing has changed since it
    was looked at `before`, or for as long as that takes. `now`: Unix seconds."""
    return stamp == before or now - stamp.changed / 1e9 >= LOOK_SECONDS


def content(path: Path) -> Generator[bytes, None, None]:
    """A tar's bytes, in pieces.

    Raises:
        ConfigError: others may write it.
        CorruptContentError: it is not there or no file, or what is packed is damaged or cut off.
        OSError: it cannot be read.
    """
    with _opened(path) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CorruptContentError("archive: it is no regular file")
        refuse_writable(path, status)
        try:
            yield from unpacked(file)
        except DamagedError as error:
            raise CorruptContentError(f"archive: damaged or cut off: {error}") from None


def _opened(path: Path) -> io.BufferedReader:
    try:
        # Without O_NONBLOCK a pipe of that name would have us wait for its writer.
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except FileNotFoundError:
        raise CorruptContentError(
            "archive: it is gone, or its name is not UTF-8: rename it"
        ) from None
    except IsADirectoryError:
        raise CorruptContentError("archive: it is no regular file") from None


def _text(name: str) -> str:
    """A file's name as it can be shown and kept; nothing is found by it where it is not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
