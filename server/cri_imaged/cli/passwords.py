"""Passwords, which no list of processes is to show."""

from __future__ import annotations

import getpass
import sys

from cri_imaged.cli.failure import ExitCode, Failure


def credentials(creds: str) -> tuple[str, str]:
    """User and password of `USER[:PASS]`, asking for what is not there."""
    user, colon, password = creds.partition(":")
    return (user, password) if colon else (user, password_of(user, ask=True))


def password_of(user: str, *, ask: bool) -> str:
    """The user's password: typed where standard input is a terminal and it is to `ask`, else the
    first line of standard input.

    Raises:
        Failure: there is none.
    """
    if ask and sys.stdin.isatty():
        return getpass.getpass(f"Password of {user}: ")
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Failure(ExitCode.USAGE, f"no password for {user}", "give it on standard input")
    return line
