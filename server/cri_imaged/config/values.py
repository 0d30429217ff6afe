"""Single configuration values that TOML has no type for, parsed to what the code uses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType, TypeAlias

from cri_imaged.daytimes import parse_time, show_time
from cri_imaged.durations import parse_duration, show_duration
from cri_imaged.errors import ImagedError
from cri_imaged.limits import GIB, KIB, MIB
from cri_imaged.locations import absolute, socket_path
from cri_imaged.oci.authority import canonical_authority
from cri_imaged.oci.pattern import NamePattern, is_pattern
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference

Duration = NewType("Duration", float)
"""Seconds, written as in `1h30m`."""

ByteSize = NewType("ByteSize", int)
"""Bytes. Written as a number, or as a string with a unit: `512MiB`, `1.5GiB`, `10GB`."""

Directory = NewType("Directory", Path)
"""An absolute path."""

FilePath = NewType("FilePath", Path)
"""An absolute path."""

SocketPath = NewType("SocketPath", Path)
"""An absolute path of a Unix socket; `unix://` before it is allowed."""

PinnedImage: TypeAlias = Reference | NamePattern
"""An image's name; or a glob that is matched with whole canonical names."""

ImageName = NewType("ImageName", Reference)
"""An image's name, normalised."""

TimeOfDay = NewType("TimeOfDay", int)
"""Minutes since midnight, written as in `08:30`."""

RepositoryPrefix = NewType("RepositoryPrefix", str)
"""A registry, or the begin of the path of some of its repositories, by whole components; `*`: all
repositories."""

AtMost = NewType("AtMost", int)
"""A number of things; -1: all."""

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": KIB,
    "MIB": MIB,
    "GIB": GIB,
    "TIB": KIB * GIB,
}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]+)?) ?([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen for TCP connections."""

    host: str
    """A name or an address; empty: all interfaces."""
    port: int
    """0: the system chooses one."""

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone reaches it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Codec:
    """How a type is read from TOML and written back. `parse` raises `ValueError`, and `TypeError`
    where the value has another type than `expected`."""

    expected: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], str | int]


def parse_size(value: str | int) -> ByteSize:
    """Parse a number of bytes, with or without a unit."""
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"size {value} is negative")
        return ByteSize(value)
    match = _SIZE.fullmatch(value)
    unit = _SIZE_UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"size {value!r} is malformed, want for example 1048576, 512MiB or 10GB")
    return ByteSize(round(float(match[1]) * unit))


def show_size(size: ByteSize) -> str | int:
    """Write a size with the largest binary unit that divides it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit.upper()] == 0:
            return f"{size // _SIZE_UNITS[unit.upper()]}{unit}"
    return size


def parse_listen_address(text: str) -> ListenAddress | None:
    """Parse `host:port`; the empty string means None."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {text!r}: an IPv6 address needs brackets: [::1]:9090")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"address {text!r} is malformed, want host:port, such as 127.0.0.1:9090")
    return ListenAddress(host, int(port))


def parse_directory(text: str) -> Directory:
    """Parse an absolute path."""
    return Directory(absolute(text))


def parse_file_path(text: str) -> FilePath:
    """Parse an absolute path."""
    return FilePath(absolute(text))


def parse_socket_path(text: str) -> SocketPath:
    """Parse a Unix socket's address."""
    return SocketPath(socket_path(text))


def parse_platform(text: str) -> Platform | None:
    """Parse `os/architecture[/variant]`; the empty string means None."""
    return Platform.parse(text) if text else None


def parse_reference(text: str) -> Reference:
    """Parse an image's name, normalised."""
    return Reference.parse(text).canonical()


def parse_pinned(text: str) -> Reference | NamePattern:
    """Parse an image's name, or a pattern of names where it has a wildcard."""
    return NamePattern.parse(text) if is_pattern(text) else parse_reference(text)


def parse_repository_prefix(text: str) -> RepositoryPrefix:
    """Parse the begin of repositories' names, normalised as they are."""
    if text == "*":
        return RepositoryPrefix(text)
    below = "/a/a"  # of so many components no name is completed
    parsed = Reference.parse(text + below)
    registry = canonical_authority(parsed.registry)
    prefix = f"{registry}/{parsed.repository}".removesuffix(below)
    if prefix != text:
        raise ValueError(f"{text!r} does not begin with a registry, want for example {prefix!r}")
    return RepositoryPrefix(prefix)


def joined(path: str, key: str) -> str:
    """The path of a key of the table at `path`, as TOML has it."""
    bare = key.replace("-", "").replace("_", "").isalnum() and key.isascii()
    shown = key if bare else '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{path}.{shown}" if path else shown


def _at_most(value: Any) -> AtMost:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if value < -1:
        raise ValueError(f"{value} is out of range, want 0 or more, or -1 for all")
    return AtMost(value)


def _of_str(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`parse` for TOML strings alone, with our own errors as `ValueError`."""

    def checked(value: Any) -> Any:
        if not isinstance(value, str):
            raise TypeError
        try:
            return parse(value)
        except ImagedError as error:
            raise ValueError(str(error)) from None

    return checked


def _size(value: Any) -> ByteSize:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return parse_size(value)


def _optional_directory(text: str) -> Directory | None:
    return parse_directory(text) if text else None


def _optional_socket(text: str) -> SocketPath | None:
    return parse_socket_path(text) if text else None


def _show_optional(value: object) -> str:
    return "" if value is None else str(value)


CODECS: dict[Any, Codec] = {
    Duration: Codec("str (a duration)", _of_str(parse_duration), show_duration),
    ByteSize: Codec("int or str (a size)", _size, show_size),
    Directory: Codec("str (a path)", _of_str(parse_directory), str),
    RepositoryPrefix: Codec(
        "str (a registry or a repository)", _of_str(parse_repository_prefix), str
    ),
    ImageName: Codec("str (a reference)", _of_str(parse_reference), str),
    SocketPath | None: Codec("str (a path)", _of_str(_optional_socket), _show_optional),
    Directory | None: Codec("str (a path)", _of_str(_optional_directory), _show_optional),
    TimeOfDay: Codec("str (a time of day)", _of_str(parse_time), show_time),
    AtMost: Codec("int", _at_most, int),
    FilePath: Codec("str (a path)", _of_str(parse_file_path), str),
    SocketPath: Codec("str (a path)", _of_str(parse_socket_path), str),
    PinnedImage: Codec("str (a reference or a pattern)", _of_str(parse_pinned), str),
    ListenAddress | None: Codec("str (an address)", _of_str(parse_listen_address), _show_optional),
    Platform | None: Codec("str (a platform)", _of_str(parse_platform), _show_optional),
}
"""By annotation, as `typing.get_type_hints` gives it. All other types are msgspec's."""
