"""Single values: sizes, addresses, paths."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cri_imaged.config.values import (
    CODECS,
    ByteSize,
    Directory,
    Duration,
    ListenAddress,
    PinnedImage,
    SocketPath,
    parse_directory,
    parse_listen_address,
    parse_size,
    parse_socket_path,
    show_size,
)
from cri_imaged.oci.platform import Platform


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("512 MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("10GB", 10**10),
        ("2TiB", 2 << 40),
        ("7B", 7),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 GiB ", "1XB", "1e3", -1, "1iB", "9" * 400])
def test_malformed_sizes(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"malformed|negative"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**60))
@example(1 << 40)
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_size(show_size(ByteSize(size))) == size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9090", ListenAddress("127.0.0.1", 9090)),
        ("[::1]:9090", ListenAddress("::1", 9090)),
        (":0", ListenAddress("", 0)),
        ("localhost:65535", ListenAddress("localhost", 65535)),
    ],
)
def test_addresses(text: str, address: ListenAddress | None) -> None:
    assert parse_listen_address(text) == address
    assert (str(address) if address else "") == text


@pytest.mark.parametrize(
    "text", ["9090", "host", "host:", "host:x", "host:65536", "::1:9090", ":-1"]
)
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"malformed|brackets"):
        parse_listen_address(text)


def test_paths() -> None:
    assert str(parse_directory("/var/lib/x")) == "/var/lib/x"
    assert str(parse_socket_path("unix:///run/x.sock")) == "/run/x.sock"
    assert str(parse_socket_path("/run/x.sock")) == "/run/x.sock"


@pytest.mark.parametrize("text", ["", "x", "./x", "/x\0y", "http://x"])
def test_paths_must_be_absolute(text: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        parse_directory(text)
    with pytest.raises(ValueError, match="absolute"):
        parse_socket_path(text)


def test_a_socket_path_must_fit_the_kernels_structure() -> None:
    parse_socket_path("/" + "x" * 106)
    with pytest.raises(ValueError, match="107"):
        parse_socket_path("/" + "x" * 107)
    with pytest.raises(ValueError, match="107"):
        parse_socket_path("/" + "ü" * 60)


@pytest.mark.parametrize(
    "kind", [Duration, ByteSize, Directory, SocketPath, PinnedImage, Platform | None]
)
@given(value=st.one_of(st.text(), st.integers(), st.booleans(), st.floats(), st.lists(st.text())))
def test_any_value_is_read_or_refused(kind: object, value: object) -> None:
    """Nothing but what `load` turns into a message for the user."""
    with contextlib.suppress(ValueError, TypeError):
        CODECS[kind].parse(value)
