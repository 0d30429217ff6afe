"""How a command ends: its exit code, and one line on standard error with the next step."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The exit codes of every command; part of the interface that scripts rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """Wrong arguments, a malformed name, or a wrong configuration."""
    NOT_FOUND = 3
    """The image, tag, platform or view does not exist."""
    UNREACHABLE = 4
    """No daemon answers at the address."""
    DENIED = 5
    """Credentials are missing or wrong, or the user may not do this."""
    REGISTRY_UNAVAILABLE = 6
    """No registry host could be reached, or it refused to serve for now."""
    TIMEOUT = 7
    """The deadline passed first."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C, as shells count it."""


class Failure(Exception):  # noqa: N818  # not an error of the program
    """Ends the command: `message` says what went wrong, `hint` what to do."""

    def __init__(self, code: ExitCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


_CODES = {
    "INVALID_ARGUMENT": ExitCode.USAGE,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "UNAVAILABLE": ExitCode.UNREACHABLE,
    "UNAUTHENTICATED": ExitCode.DENIED,
    "PERMISSION_DENIED": ExitCode.DENIED,
    "DEADLINE_EXCEEDED": ExitCode.TIMEOUT,
}
_REGISTRY_UNAVAILABLE = "RegistryUnavailable: "
_HINTS = {
    ExitCode.UNREACHABLE: "is the daemon running? see `cri-imaged serve --help`",
    ExitCode.DENIED: "give credentials that may read it, such as `--creds USER`",
    ExitCode.REGISTRY_UNAVAILABLE: "check the registry's name, the network and hosts.toml",
    ExitCode.TIMEOUT: "allow more time, or see why it hangs in the daemon's log",
}


def of_status(code: str, details: str) -> Failure:
    """The failure that a gRPC status, its code by name, means to a user of the command line."""
    exit_code = _CODES.get(code, ExitCode.FAILED)
    if code == "UNKNOWN" and details.startswith(_REGISTRY_UNAVAILABLE):
        exit_code = ExitCode.REGISTRY_UNAVAILABLE
        details = details.removeprefix(_REGISTRY_UNAVAILABLE)
    if code == "UNIMPLEMENTED":
        hint = "the daemon is of another version than this command; restart or update it"
    elif " is blocked by " in details:
        hint = "credentials do not help: that file keeps this node from the registry"
    elif code == "RESOURCE_EXHAUSTED":
        hint = "free disk space or see [image.limits] in docs/configuration.md"
    else:
        hint = _HINTS.get(exit_code, "")
    return Failure(exit_code, details or code.lower().replace("_", " "), hint)
