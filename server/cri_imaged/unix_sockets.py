"""A server's Unix socket: claimed, bound, its owner and mode right from the start."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cri_imaged.errors import ConfigError


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """Where a server listens, and who may use it."""

    address: Path
    option: str
    """The configuration key that errors name, such as `grpc.address`."""
    mode: int
    uid: int
    gid: int

    def bound(self) -> socket.socket:
        """The socket, on which nobody listens yet. Raises `ConfigError`, as `make`."""
        made = socket.socket(socket.AF_UNIX)
        try:
            self.make(lambda: made.bind(str(self.address)))
        except BaseException:
            made.close()
            raise
        return made

    def make(self, bind: Callable[[], object]) -> None:
        """Have `bind` make the socket at `address`.

        Raises:
            ConfigError: another daemon serves there, or the socket cannot be made; says which.
        """
        claim(self.address, self.option)
        # The mode must be right from the socket's first moment on.
        before = os.umask(0o777 & ~self.mode)
        try:
            bind()
        except (OSError, RuntimeError) as error:  # gRPC's is the latter
            raise ConfigError(f"{self.option}: cannot listen on {self.address}: {error}") from None
        finally:
            os.umask(before)
        if (self.uid, self.gid) != (os.geteuid(), os.getegid()):
            try:
                os.chown(self.address, self.uid, self.gid)
            except PermissionError:
                raise ConfigError(
                    f"{self.option}: may not give {self.address} to "
                    f"{self.uid}:{self.gid} without privileges"
                ) from None
        os.chmod(self.address, self.mode)


def claim(address: Path, option: str) -> None:
    """Make way for our socket: a stale one is removed, a live one or another file is refused.

    Raises:
        ConfigError
    """
    try:
        _make_way(address, option)
    except OSError as error:
        raise ConfigError(f"{option}: cannot use {address}: {error.strerror}") from None


def _make_way(address: Path, option: str) -> None:
    _make_way_to(address.parent)
    try:
        mode = address.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{option}: {address} exists and is no socket; choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        answer = probe.connect_ex(str(address))
    if answer == 0:
        raise ConfigError(
            f"{option}: another daemon serves on {address}; stop it or choose another"
        )
    if answer != errno.ECONNREFUSED:
        raise ConfigError(f"{option}: cannot use {address}: {os.strerror(answer)}")
    address.unlink()


def _make_way_to(directory: Path) -> None:
    """A directory that whoever may use the socket can reach, and only we change: whoever could
    rename in it could put a socket of their own there. One of the system's stays as it is."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        each.chmod(0o755)
    mode, owner = stat.S_IMODE(directory.stat().st_mode), directory.stat().st_uid
    if owner == os.geteuid() and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        directory.chmod(mode & ~stat.S_IWOTH)
