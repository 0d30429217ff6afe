"""Single configuration values that TOML has no type for, parsed to what the code uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

from cri_imaged.errors import ImagedError
from cri_imaged.limits import GIB, KIB, MIB
from cri_imaged.oci.platform import Platform
from cri_imaged.oci.reference import Reference

Duration = NewType("Duration", float)
"""Seconds. Written as Go writes durations, which containerd's users know: `1h30m`, `500ms`."""

ByteSize = NewType("ByteSize", int)
"""Bytes. Written as a number, or as a string with a unit: `512MiB`, `1.5GiB`, `10GB`."""

Directory = NewType("Directory", Path)
"""An absolute path."""

SocketPath = NewType("SocketPath", Path)
"""An absolute path of a Unix socket; `unix://` before it is allowed."""

SOCKET_PATH_BYTES = 107
"""What fits into sockaddr_un (unix(7)), without the closing zero."""

_DURATION_UNITS = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,  # the micro sign
    "μs": 1e-6,  # the Greek letter
    "ns": 1e-9,
}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|s|us|µs|μs|ns)", re.ASCII)
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
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen for TCP connections."""

    host: str
    """A name or an address; empty: all interfaces."""
    port: int
    """0: the system chooses one."""

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


def parse_duration(text: str) -> Duration:
    """Parse Go's notation. Negative durations have no meaning here."""
    seconds, end = 0.0, 0
    while part := _DURATION_PART.match(text, end):
        seconds += float(part[1]) * _DURATION_UNITS[part[2]]
        end = part.end()
    if text != "0" and (not text or end != len(text)):
        raise ValueError(f"duration {text!r} is malformed, want for example 90s, 5m or 1h30m")
    return Duration(seconds)


def show_duration(seconds: Duration) -> str:
    """Write a duration so that `parse_duration` gives it back, to the nanosecond."""
    rest = round(seconds * 1e9)
    if rest == 0:
        return "0s"
    parts = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, round(_DURATION_UNITS[unit] * 1e9))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


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
    return Directory(_absolute(text))


def parse_socket_path(text: str) -> SocketPath:
    """Parse a Unix socket's address."""
    path = _absolute(text.removeprefix("unix://"))
    if len(bytes(path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"socket path {text!r} is longer than {SOCKET_PATH_BYTES} bytes")
    return SocketPath(path)


def parse_platform(text: str) -> Platform | None:
    """Parse `os/architecture[/variant]`; the empty string means None."""
    return Platform.parse(text) if text else None


def parse_reference(text: str) -> Reference:
    """Parse an image's name, normalised."""
    return Reference.parse(text).canonical()


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise ValueError(f"path {text!r} is not absolute")
    return path


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


def _show_optional(value: object) -> str:
    return "" if value is None else str(value)


CODECS: dict[Any, Codec] = {
    Duration: Codec("str (a duration)", _of_str(parse_duration), show_duration),
    ByteSize: Codec("int or str (a size)", _size, show_size),
    Directory: Codec("str (a path)", _of_str(parse_directory), str),
    SocketPath: Codec("str (a path)", _of_str(parse_socket_path), str),
    Reference: Codec("str (a reference)", _of_str(parse_reference), str),
    ListenAddress | None: Codec("str (an address)", _of_str(parse_listen_address), _show_optional),
    Platform | None: Codec("str (a platform)", _of_str(parse_platform), _show_optional),
}
"""By annotation, as `typing.get_type_hints` gives it. All other types are msgspec's."""
