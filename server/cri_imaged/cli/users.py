"""Whom an image's process runs as: the config's `User`, looked up in the image's own files."""

from __future__ import annotations

import os
from pathlib import Path

from cri_imaged.errors import InvalidRequestError, NotFoundError
from cri_imaged.oci.runtime_spec import ProcessUser

_FILE_BYTES = 1 << 20
_LAST_ID = 0x7FFFFFFF
"""Runtimes take no higher one."""


def process_user(root: Path, user: str) -> ProcessUser:
    """`user` is `name`, `uid`, or one of them with `:group` or `:gid` (image specification,
    config.md); root where it names none. A number needs no entry in the files.

    Raises:
        NotFoundError: a name that the image's files do not have.
        InvalidRequestError: a number that is no ID.
    """
    name, _, group = user.partition(":")
    if not user:
        return ProcessUser(0, 0, tuple(_groups(root, "root", 0)))
    name = name or "0"
    entry = _entry(_lines(root, "passwd"), name, 2)
    if entry is not None:
        name, uid, gid = entry[0], _id(entry[2]), _id(entry[3])
    elif _is_number(name):
        uid, gid = _id(name), 0
    else:
        raise NotFoundError(f"the image's /etc/passwd has no user {name!r}")
    if not group:
        return ProcessUser(uid, gid, tuple(_groups(root, name, gid)))
    found = _entry(_lines(root, "group"), group, 2)
    if found is not None:
        return ProcessUser(uid, _id(found[2]))
    if _is_number(group):
        return ProcessUser(uid, _id(group))
    raise NotFoundError(f"the image's /etc/group has no group {group!r}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _id(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    # Python refuses to read thousands of digits.
    if len(significant) > len(str(_LAST_ID)) or int(significant) > _LAST_ID:
        raise InvalidRequestError(
            f"{digits[:20]} is no user's or group's ID, as the image says: the last is {_LAST_ID}"
        )
    return int(significant)


def _entry(lines: list[list[str]], wanted: str, number: int) -> list[str] | None:
    """The line whose name, or whose ID in column `number`, is `wanted`."""
    for line in lines:
        if wanted in (line[0], line[number]):
            return line
    return None


def _groups(root: Path, name: str, gid: int) -> list[int]:
    return [
        number
        for line in _lines(root, "group")
        if name in line[3].split(",") and (number := _id(line[2])) != gid
    ]


def _lines(root: Path, name: str) -> list[list[str]]:
    """The well-formed lines of `etc/NAME` in the image, which must not lead out of it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        directory = os.open(root / "etc", flags | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError:
        return []
    finally:
        os.close(directory)
    with open(file, "rb") as stream:
        text = stream.read(_FILE_BYTES).decode(errors="replace")
    lines = [line.split(":") for line in text.splitlines()]
    columns = 4
    return [
        line
        for line in lines
        if len(line) >= columns and _is_number(line[2]) and (name == "group" or _is_number(line[3]))
    ]
