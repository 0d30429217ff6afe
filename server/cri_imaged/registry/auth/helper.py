"""Docker's credential helpers: programs named `docker-credential-*` that know logins."""

from __future__ import annotations

import re

import msgspec

from cri_imaged import children
from cri_imaged.ports import Auth
from cri_imaged.registry.auth.login import ANONYMOUS, Login

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECONDS = 30.0
_ANSWER_BYTES = 1 << 20
_NO_LOGIN = b"credentials not found"


class HelperError(Exception):
    """The helper failed; says how, without what it printed."""


class _Answer(msgspec.Struct, rename="pascal"):
    username: str | None = None
    secret: str | None = None


async def ask_helper(name: str, server: str) -> Login:
    """What `docker-credential-NAME get` answers for `server`; anonymous where it has no login.

    Raises:
        HelperError: no such program, a failure, no answer in time, or something else than a login.
    """
    program = f"docker-credential-{name}"
    if not _NAME.fullmatch(name):
        raise HelperError(f"{name[:80]!r} is no name of a credential helper")
    answer = await _run(program, server)
    if answer is None:
        return ANONYMOUS
    try:
        found = msgspec.json.decode(answer, type=_Answer | None) or _Answer()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise HelperError(f"{program}: did not answer with a login in JSON") from None
    return Login.of(Auth(username=found.username or "", password=found.secret or ""))


async def _run(program: str, server: str) -> bytes | None:
    """The helper's answer; None where it has no login for `server`."""
    try:
        ran = await children.ask(
            [program, "get"], server.encode(), seconds=_SECONDS, kept=_ANSWER_BYTES
        )
    except TimeoutError:
        raise HelperError(f"{program}: no answer within {_SECONDS:g} s") from None
    except OSError as error:
        raise HelperError(f"{program}: cannot be run: {error.strerror}") from None
    if ran.status == 0:
        return ran.out
    if _NO_LOGIN in ran.out[:4096]:
        return None
    raise HelperError(f"{program}: failed with status {ran.status} for {server}")
