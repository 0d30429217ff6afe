"""Heads, bodies and URLs as peers write them: what is borne, what is refused, what it costs."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cri_imaged.limits import KIB, MIB
from cri_imaged.registry.failures import HostFailure
from cri_imaged.registry.hosts.host import Host
from cri_imaged.registry.http.coding import Decompressed
from cri_imaged.registry.http.connection import Connection, ReceiveBuffer
from cri_imaged.registry.http.errors import EndedError, MalformedError
from cri_imaged.registry.http.exchange import request_head
from cri_imaged.registry.http.framing import Chunked, Framing, Sized, UntilClose, frame
from cri_imaged.registry.http.head import parse_head
from cri_imaged.registry.http.request import Request, is_http, redirect_target
from tests.support.work import steps_of

HERE = URL("https://registry.example/v2/x")


# --- heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "status", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", 200, True),
        (b"HTTP/1.1 200", 200, True),
        (b"HTTP/1.1  201  Made\r", 201, True),
        (b"HTTP/1.1 200 OK\r\nConnection: foo, Close", 200, False),
        (b"HTTP/1.0 200 OK", 200, False),
        (b"HTTP/1.0 200 OK\nConnection: keep-alive", 200, True),
        (b"HTTP/1.1 203 \xff\xfe", 203, True),
    ],
)
def test_status_lines(block: bytes, status: int, keep_alive: bool) -> None:
    head = parse_head(block, 10)
    assert (head.status, head.keep_alive) == (status, keep_alive)


def test_fields_of_every_kind() -> None:
    block = (
        b"HTTP/1.1 200 OK\r\nA: one\r\na:two\t\r\nEmpty:\r\nFolded: x\r\n\t y\r\n"
        b"Bytes: \xc3\xa9\xff"
    )
    headers = parse_head(block, 10).headers
    assert headers.getall("A") == ["one", "two"]
    assert headers["empty"] == ""
    assert headers["Folded"] == "x y"
    assert headers["Bytes"].encode("utf-8", "surrogateescape") == b"\xc3\xa9\xff"


def test_what_no_field_can_be_called_is_passed_over() -> None:
    block = (
        b"HTTP/1.1 200 OK\r\nA : one\r\nsp ace: x\r\n: x\r\nb[0]: x\r\nF\xc3\xb6: x\r\n z\r\nC: two"
    )
    assert dict(parse_head(block, 10).headers) == {"A": "one", "C": "two"}


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nno colon either\r\nA: x",
        b"HTTP/1.1 200 OK\r\nsp ace: a\0b",
        b"HTTP/1.1 200 OK\r\nX: a\rb",
        b"HTTP/1.1 200 OK\r\nX: a\0b",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 11,
    ],
)
def test_heads_that_are_none(block: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_head(block, 10)


@given(st.binary(max_size=200))
def test_any_head_is_read_or_refused(tail: bytes) -> None:
    try:
        parse_head(b"HTTP/1.1 200 OK\r\n" + tail, 10)
    except MalformedError:
        return


@pytest.mark.parametrize("value", ["a\r\nHost: elsewhere", "a\nb", "a\0"])
def test_no_header_of_ours_leaves_its_line(value: str) -> None:
    with pytest.raises(MalformedError, match="'X-Team' holds a line break") as caught:
        request_head("GET", "/", CIMultiDict({"X-Team": value}))
    assert value not in str(caught.value)


# --- bodies ---------------------------------------------------------------------------------


def framed(*fields: tuple[str, str], method: str = "GET", status: int = 200) -> Framing:
    return frame(method, status, CIMultiDictProxy(CIMultiDict(fields)))[0]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ([("Content-Length", "5")], Sized),
        ([("Content-Length", "5"), ("Content-Length", "5")], Sized),
        ([("Content-Length", "5, 5")], Sized),
        ([("Transfer-Encoding", "Chunked")], Chunked),
        ([("Transfer-Encoding", "chunked"), ("Content-Length", "5")], Chunked),
        ([("Transfer-Encoding", "identity")], UntilClose),
        ([], UntilClose),
    ],
)
def test_what_says_where_a_body_ends(fields: list[tuple[str, str]], kind: type) -> None:
    assert isinstance(framed(*fields), kind)


@pytest.mark.parametrize(
    "fields",
    [
        [("Content-Length", "5"), ("Content-Length", "6")],
        [("Content-Length", "-5")],
        [("Content-Length", "+5")],
        [("Content-Length", "0x5")],
        [("Content-Length", "5" * 30)],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "chunked, chunked")],
    ],
)
def test_what_contradicts_itself_is_refused(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(MalformedError):
        framed(*fields)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_answers_without_a_body(method: str, status: int) -> None:
    assert framed(("Content-Length", "5"), method=method, status=status).done


def unframe(framing: Framing, pieces: list[bytes]) -> tuple[bytes, bytes]:
    body, rest = b"", b""
    for piece in pieces:
        rest += piece
        while rest and not framing.done:
            some, rest = framing.feed(rest)
            body += some
    return body, rest


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.sampled_from([b"\r\n", b"\n"]),
    st.sampled_from([b"", b" ", b";name=value", b' ; "quoted"']),
    st.lists(st.integers(min_value=1, max_value=9), min_size=1),
)
def test_chunks_cut_anywhere_are_put_together(
    chunks: list[bytes], line_end: bytes, extension: bytes, cuts: list[int]
) -> None:
    wire = b"".join(
        b"%X" % len(chunk) + extension + line_end + chunk + line_end for chunk in chunks
    )
    wire += b"0" + line_end + b"Trailer: x" + line_end + line_end + b"stray"
    pieces = []
    at = 0
    while at < len(wire):
        pieces.append(wire[at : at + cuts[len(pieces) % len(cuts)]])
        at += len(pieces[-1])
    assert unframe(Chunked(), pieces) == (b"".join(chunks), b"stray")


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"-1\r\n",
        b"1\r\nabc\r\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * 9000,
        b"0" * 9000,
        b"0\r\n" + b"Trailer: x\r\n" * 9000,
        b"1\r\na\r\n" * 20_000,
    ],
)
def test_chunks_that_are_none_or_cost_too_much_are_refused(wire: bytes) -> None:
    with pytest.raises(MalformedError):
        unframe(Chunked(), [wire])


def test_small_chunks_take_their_turns() -> None:
    """One call looks at so many lines, however much has come."""
    framing = Chunked()
    wire = b"1\r\na\r\n" * 9000
    calls = 0
    while wire:
        body, wire = framing.feed(wire)
        assert len(body) <= 1000
        calls += 1
    assert calls == 9


@pytest.mark.parametrize("framing", [Sized(2), Chunked()])
def test_a_body_that_is_cut_off_is_told(framing: Framing) -> None:
    framing.feed(b"1")
    with pytest.raises(EndedError):
        framing.end()


# --- codings --------------------------------------------------------------------------------


async def decoded(*pieces: bytes) -> bytes:
    waiting = list(pieces)

    async def read() -> bytes:
        return waiting.pop(0) if waiting else b""

    gunzipped = Decompressed(read, "gzip")
    whole = b""
    while some := await gunzipped.read():
        assert len(some) <= 256 << 10
        whole += some
    return whole


async def test_gzip_is_undone_in_pieces_of_bounded_size() -> None:
    data = bytes(3_000_000)
    coded = gzip.compress(data)
    assert await decoded(coded) == data
    assert await decoded(*(coded[at : at + 1] for at in range(len(coded)))) == data
    assert await decoded(coded + gzip.compress(b"more")) == data + b"more"
    assert await decoded(coded + bytes(512)) == data


async def test_what_only_says_that_it_is_gzip_is_passed_through() -> None:
    for data in (b"{}", b"{", b"", b"\x1f"):
        assert await decoded(data) == data
    assert await decoded(b"\x1f", b"x") == b"\x1fx"


async def test_damaged_gzip_is_refused() -> None:
    coded = gzip.compress(b"x" * 1000)
    with pytest.raises(EndedError):
        await decoded(coded[:-4])
    with pytest.raises(MalformedError):
        await decoded(coded[:10] + b"\xff\xff" + coded[12:])


# --- URLs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://s.example/a b?c=d e", "https://s.example/a%20b?c=d%20e"),
        ("https://s.example/a%20b?s=%2Fx+y%3D", "https://s.example/a%20b?s=%2Fx+y%3D"),
        ("/v2/é|^", "https://registry.example/v2/%C3%A9%7C%5E"),
        ("y?x=[1]", "https://registry.example/v2/y?x=[1]"),
        ("//other.example/z", "https://other.example/z"),
        ("https://u:p@s.example/", "https://s.example/"),
        ("https://s.example/" + "x" * 40_000, "https://s.example/" + "x" * 40_000),
    ],
)
def test_where_redirects_lead(location: str, target: str) -> None:
    assert str(redirect_target(HERE, location)) == target


@pytest.mark.parametrize(
    "location",
    ["http://[1::2::3]/", "http://a b/", "http://%31.0.0.1/", "https://s:99999/", "https://s:0/"],
)
def test_redirects_to_no_host(location: str) -> None:
    with pytest.raises(HostFailure, match=r"malformed|not http or https"):
        redirect_target(HERE, location)


@pytest.mark.parametrize("piece", ["/..", "a/", "%41", " ", "?a=b&", "a."])
def test_a_redirect_costs_as_much_as_it_is_long_and_has_a_longest(piece: str) -> None:
    short, long = (piece * (size // len(piece)) for size in (32 * KIB, 64 * KIB))
    assert steps_of(redirect_target, HERE, long) <= 2.1 * steps_of(redirect_target, HERE, short)
    with pytest.raises(HostFailure, match="too long"):
        redirect_target(HERE, long + piece)


@given(st.text(max_size=60))
def test_any_location_is_followed_or_refused(location: str) -> None:
    try:
        found = redirect_target(HERE, location)
    except HostFailure:
        return
    assert is_http(found)
    assert str(found).isascii()


@pytest.mark.parametrize(
    ("url", "belongs"),
    [
        ("http://r.example/v2/x", True),
        ("https://r.example/v2/x", True),
        ("https://r.example:8443/v2/x?token=1", True),
        ("https://r.example/v2/y", False),
        ("https://s.example/v2/x", False),
        ("http://r.example:8080/v2/x", False),
    ],
)
def test_who_is_given_what_was_meant_for_the_host(url: str, belongs: bool) -> None:
    request = Request(
        URL("http://r.example/v2/x"),
        Host("http", "r.example"),
        own_headers=CIMultiDict({"Authorization": "Basic x"}),
    )
    assert request.belongs_to(URL(url)) is belongs
    assert ("Authorization" in request.headers_for(URL(url))) is belongs


def test_the_more_readers_hold_the_less_is_received_at_once() -> None:
    buffer = ReceiveBuffer()
    streams = [Connection(buffer) for _ in range(400)]
    for stream in streams:
        stream.buffer_updated(len(stream.get_buffer(-1)))
    assert buffer.held <= 40 * MIB
    assert len(Connection(buffer).get_buffer(-1)) < 64 * KIB
    for stream in streams:
        stream.close()
    assert buffer.held == 0
    assert len(Connection(buffer).get_buffer(-1)) == len(ReceiveBuffer().view)


def test_of_a_head_only_what_is_read_is_held_and_that_is_bounded() -> None:
    lines = b"\r\n".join(b"X-%d: y" % n for n in range(5))
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: a\r\n" + lines, 10)
    assert dict(head.reduced().headers) == {"Content-Type": "a"}
    large = parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: " + b"x" * (65 * KIB), 10)
    with pytest.raises(MalformedError, match="too large"):
        large.reduced()
