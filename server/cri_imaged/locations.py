"""Where things are that nobody configured: root's in the system's folders, anybody else's in that
user's XDG base directories."""

from __future__ import annotations

import os
from pathlib import Path

from cri_imaged.errors import ConfigError

SYSTEM_SOCKET = Path("/run/cri-imaged/cri-imaged.sock")
SOCKET_PATH_BYTES = 107
"""What fits into sockaddr_un (unix(7)), without the closing zero."""


def own_state() -> Path:
    """The folder of this user's sockets. Raises `ConfigError` where there is no home directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime else xdg("XDG_STATE_HOME", ".local/state")
    return base / "cri-imaged"


def own_socket() -> Path:
    """Where this user's own daemon serves. Raises `ConfigError` as `own_state`."""
    return own_state() / "cri-imaged.sock"


def xdg(variable: str, fallback: str) -> Path:
    """A folder of the XDG Base Directory Specification, which ignores relative values.

    Raises:
        ConfigError: this user has no home directory.
    """
    value = Path(os.environ.get(variable, ""))
    if value.is_absolute():
        return value
    try:
        return Path.home() / fallback
    except RuntimeError:
        raise ConfigError(f"this user has no home directory: set HOME or {variable}") from None


def absolute(text: str) -> Path:
    """Parse an absolute path. Raises `ValueError`."""
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise ValueError(f"path {text!r} is not absolute")
    return path


def socket_path(text: str) -> Path:
    """Parse a Unix socket's address: its path, `unix://` before it or not. Raises `ValueError`."""
    path = absolute(text.removeprefix("unix://"))
    if len(bytes(path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"socket path {text!r} is longer than {SOCKET_PATH_BYTES} bytes")
    return path
