"""Landlock (landlock(7)): what of the file system and of the network a process may still reach."""

from __future__ import annotations

import os
import struct

from cri_imaged import libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_WITH_LINKS = 2
"""The first ABI that lets links cross directories, which hardlinks in layers do."""
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ALL_FILES = {2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Rights over files that are handled, from that ABI on."""
_ALL_NETWORK = {4: 0b11}
_ALL_SCOPES = {6: 0b11}
"""Abstract sockets, signals."""
_FILLING = (
    _WRITE_FILE
    | _READ_FILE
    | _READ_DIR
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_FIFO
    | _MAKE_SYM
    | _REFER
    | _TRUNCATE
)


def supported() -> bool:
    """Whether `restrict` works here."""
    return _version() >= _WITH_LINKS


def _version() -> int:
    try:
        return libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(directory: int | None) -> bool:
    """Let this process and what it starts fill the open `directory`, and reach no other file, TCP
    port, abstract socket or process outside. Needs no_new_privs. False where the kernel cannot, or
    cannot with links between directories."""
    abi = _version()
    if abi < _WITH_LINKS:
        return False
    handled = _newest(_ALL_FILES, abi)
    attributes = struct.pack("QQQ", handled, _newest(_ALL_NETWORK, abi), _newest(_ALL_SCOPES, abi))
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, size, 0)
    try:
        if directory is not None:
            rule = struct.pack("=Qi", _FILLING & handled, directory)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _newest(rights: dict[int, int], abi: int) -> int:
    return max((mask for since, mask in rights.items() if since <= abi), default=0)
