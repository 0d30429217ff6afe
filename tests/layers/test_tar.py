"""The tar reader: formats, splits, truncations and damage."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_imaged.errors import CorruptContentError, LimitExceededError, UnsupportedContentError
from cri_imaged.layers.tar.entry import Entry, Kind
from cri_imaged.layers.tar.reader import TarReader
from cri_imaged.limits import Limits
from tests.support import tarballs as t

LONG = "directory/" * 20 + "name"
SECOND = 1_000_000_000


def read(
    pieces: bytes | Iterable[bytes], limits: Limits | None = None
) -> list[tuple[Entry, bytes]]:
    """Entries with their data."""
    reader = TarReader(limits or Limits())
    found: list[tuple[Entry, bytearray]] = []
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        for entry, data in reader.feed(piece):
            if entry is not None:
                found.append((entry, bytearray()))
            found[-1][1].extend(data)
    reader.finish()
    assert reader.entries == len(found)
    assert all(len(data) == entry.size for entry, data in found)
    return [(entry, bytes(data)) for entry, data in found]


def one(archive: bytes) -> Entry:
    ((entry, _),) = read(archive)
    return entry


GLOBAL = {"comment": "a commit", "mtime": "1.5"}
SORTS = (
    t.global_pax(GLOBAL),
    t.directory("d", mode=0o1777),
    t.file("d/x", b"hello" * 300, pax={"SCHILY.xattr.user.a": b"\0\xff", "mtime": "-1.25"}),
    t.file(LONG, b"long"),
    t.symlink("s", "/" + LONG),
    t.hardlink("h", "d/x"),
    t.device("null", 1, 3),
    t.fifo("p"),
    t.file("empty"),
    t.file("block", bytes(512)),
)
ALL_SORTS = t.archive(*SORTS)
LAST_BLOCKS = {
    size
    for number, data in ((3, b"hello" * 300), (4, b"long"))
    for end in [sum(map(len, SORTS[:number]))]
    for size in range(end - (-len(data) % 512), end)
}
"""Where the archive has all data of a file, and not all that fills up its last block."""


def test_fields() -> None:
    made = t.file("a", b"xyz", mode=0o4755, uid=1000, gid=2000, mtime=1234)
    entry, data = read(t.archive(made))[0]
    assert data == b"xyz"
    assert entry == Entry(b"a", Kind.FILE, 0o4755, 1000, 2000, 1234 * SECOND, 3, b"", 0, 0, 0)


@pytest.mark.parametrize("flag", [b"0", b"\0", b"7"])
def test_types_of_regular_files(flag: bytes) -> None:
    assert one(t.archive(t.entry("a", flag))).kind is Kind.FILE


def test_a_v7_directory() -> None:
    assert one(t.archive(t.entry("a/", b"\0"))).kind is Kind.DIRECTORY


def test_ustar_prefix() -> None:
    assert one(t.archive(t.file("name", prefix=b"some/prefix"))).name == b"some/prefix/name"


def test_long_names_and_links() -> None:
    entry = one(t.archive(t.symlink(LONG, "to/" + LONG)))
    assert (entry.name, entry.link) == (LONG.encode(), b"to/" + LONG.encode())


def test_names_fill_their_fields() -> None:
    entry = one(t.archive(t.header("n" * 100, b"2", link="l" * 100)))
    assert (entry.name, entry.link) == (b"n" * 100, b"l" * 100)


@pytest.mark.parametrize("value", [1 << 33, (1 << 63) - 1, -1, -(1 << 62)])
def test_base256_times(value: int) -> None:
    assert one(t.archive(t.file("a", mtime=value))).mtime == value * SECOND


def test_base256_owner_and_size() -> None:
    field = t.base256(5, 12)
    entry = one(t.archive(t.header("a", uid=1 << 31, size_field=field) + t.padded(b"12345")))
    assert (entry.uid, entry.size) == (1 << 31, 5)


def test_pax_overrides() -> None:
    records = {
        "path": "päth",
        "uid": "4000000000",
        "gid": "7",
        "size": "3",
        "mtime": "1600000000.123456789",
        "SCHILY.xattr.security.capability": b"\x01\x00=\n",
        "comment": "no matter",
    }
    head = t.pax(records) + t.header("short", size=0)
    entry, data = read(t.archive(head + t.padded(b"abc")))[0]
    assert data == b"abc"
    assert entry.name == "päth".encode()
    assert (entry.uid, entry.gid) == (4_000_000_000, 7)
    assert entry.mtime == 1600000000123456789
    assert entry.xattrs == {b"security.capability": b"\x01\x00=\n"}


def test_pax_linkpath_and_empty_values() -> None:
    entry = one(t.archive(t.symlink("a", "b", pax={"linkpath": "elsewhere", "path": ""})))
    assert (entry.name, entry.link) == (b"a", b"elsewhere")


GNU = b"ustar  \0"
TIMES = b"%011o\0" % 1_600_000_000 * 2


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        (b"opt/long", b"opt/long/x"),
        (b"a" * 155, b"a" * 155 + b"/x"),
        (b"12345670/8", b"12345670/8/x"),
        (TIMES, b"x"),
        (t.base256(1 << 40, 12) + t.base256(5, 12), b"x"),
        (TIMES[:12] + b"dir/x", TIMES[:11] + b"/x"),
        (b"1234567", b"x"),
        ("é/d".encode(), b"x"),
        (b"", b"x"),
    ],
)
def test_a_prefix_in_a_gnu_header_counts_where_its_times_are_no_numbers(
    prefix: bytes, name: bytes
) -> None:
    """As Go's reader has it, for what Go's writer did before 1.8."""
    for owner in (0, 2097157):
        block = t.header("x", magic=GNU, prefix=prefix, uid=owner)
        assert [entry.name for entry, _ in read(t.archive(block))] == [name]


def test_neither_the_old_format_nor_another_magic_has_a_prefix() -> None:
    for magic in (bytes(8), b"ustar 00", b"USTAR\x0000"):
        block = t.header("x", magic=magic, prefix=b"opt/long")
        assert [entry.name for entry, _ in read(t.archive(block))] == [b"x"]


def test_a_global_pax_header_changes_no_entry() -> None:
    plain = read(t.archive(t.file("a"), t.file("b"), t.file("c")))
    entries = read(
        t.archive(
            t.global_pax({"uid": "5", "mtime": "9", "SCHILY.xattr.user.a": "x", "size": "9"}),
            t.global_pax({"path": "ignored", "linkpath": "ignored"}),
            t.file("a"),
            t.file("b", pax={"uid": "6"}),
            t.global_pax({"uid": "7"}),
            t.file("c"),
        )
    )
    assert [entry.uid for entry, _ in entries] == [0, 6, 0]
    assert [entry.mtime for entry, _ in entries] == [entry.mtime for entry, _ in plain]
    assert [entry.name for entry, _ in entries] == [b"a", b"b", b"c"]
    assert all(entry.xattrs is None and entry.size == 0 for entry, _ in entries)


def test_what_comes_between_a_pax_header_and_its_entry_parts_them() -> None:
    """As in Go, whose reader decides where containerd puts a file."""
    first = t.pax({"path": "elsewhere", "mtime": "5"})
    entries = read(
        t.archive(
            first + t.pax({"uid": "6"}) + t.file("a"),
            first + t.global_pax({"comment": "x"}) + t.file("b"),
            t.extension(b"L", b"elsewhere\0") + t.global_pax({"comment": "x"}) + t.file("c"),
        )
    )
    assert [(entry.name, entry.uid) for entry, _ in entries] == [(b"a", 6), (b"b", 0), (b"c", 0)]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        ("-0.000000001", -1),
        ("1.0000000019", 1_000_000_001),
        ("-1.0000000011", -1_000_000_002),
        ("3.", 3_000_000_000),
        ("+3.5", 3_500_000_000),
    ],
)
def test_pax_times(text: str, nanoseconds: int) -> None:
    assert one(t.archive(t.file("a", pax={"mtime": text}))).mtime == nanoseconds


@pytest.mark.parametrize(
    ("number", "owner"),
    [(-1, 0), (-2, 0xFFFFFFFE), (0xFFFFFFFF, 0), (1 << 32, 0), ((1 << 32) + 5, 5), (1 << 62, 0)],
)
def test_an_owner_is_what_the_kernel_makes_of_a_long_number(number: int, owner: int) -> None:
    made = one(t.archive(t.file("a", pax={"uid": f"{number}", "gid": f"{number}"})))
    assert (made.uid, made.gid) == (owner, owner)
    block = bytearray(t.archive(t.file("a")))
    in_binary = (number & ((1 << 64) - 1)).to_bytes(8, "big")
    if number in range(-(1 << 55), 1 << 55):
        block[108:116] = bytes([in_binary[0] | 0x80]) + in_binary[1:]
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        assert one(bytes(block)).uid == owner


def test_pax_numbers_may_have_a_plus() -> None:
    made = one(t.archive(t.file("a", b"abc", pax={"uid": "+5", "gid": "+6", "size": "+3"})))
    assert (made.uid, made.gid, made.size) == (5, 6, 3)


@pytest.mark.parametrize(
    "records",
    [
        {"mtime": "1e5"},
        {"mtime": "soon"},
        {"mtime": "99999999999999999999"},
        {"uid": "9223372036854775808"},
        {"uid": "+-1"},
        {"gid": "1_0"},
        {"mtime": "+"},
        {"size": "-1"},
        {"size": " 1"},
        {"path": b"a\0b"},
        {"SCHILY.xattr.": "x"},
        {"SCHILY.xattr.a\0b": "x"},
    ],
)
def test_malformed_pax_values(records: dict[str, str | bytes]) -> None:
    with pytest.raises(CorruptContentError, match="malformed"):
        read(t.archive(t.file("a", pax=records)))


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"6 a=b",
        b"6 a=bc",
        b"6 ab=\n\n",
        b"-6 a=b\n",
        b"4 =\n",
        b"5 ab\n",
        b"0 \n",
        b"6a=b\n",
        b" 6 a=b\n",
        b"99999999999999999999 a=b\n",
        b"06 a=b\nx",
    ],
)
def test_malformed_pax_records(body: bytes) -> None:
    with pytest.raises(CorruptContentError, match="PAX record"):
        read(t.archive(t.extension(b"x", body), t.file("a")))


def test_signed_checksum() -> None:
    block = bytearray(t.header("ä" * 20))
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    block[148:156] = b"%06o\0 " % signed
    assert one(t.archive(bytes(block))).name == ("ä" * 20).encode()


@given(st.binary(min_size=512, max_size=512))
def test_checksum_is_the_sum(block: bytes) -> None:
    from cri_imaged.layers.tar.fields import sums_up

    right = sum(block[:148] + b" " * 8 + block[156:])
    for claimed in (right - 1, right, right + 1, right + 65521):
        assert sums_up(block[:148] + b"%06o\0 " % claimed + block[156:]) is (claimed == right)


@pytest.mark.parametrize(
    "numbers", [b"12345678", b"0x1\0", b"0o17\0", b"1_0\0", b"+1\0", b"-1\0", b"1 1\0"]
)
def test_malformed_octal(numbers: bytes) -> None:
    block = bytearray(t.header("a"))
    block[100:108] = numbers.ljust(8, b"\0")
    with pytest.raises(CorruptContentError, match="octal"):
        read(t.archive(t.seal(bytes(block))))


def test_other_kinds_have_no_data() -> None:
    archive = t.archive(
        *(t.header("a", flag, size=600, link="b") for flag in (b"1", b"2", b"3", b"5", b"6")),
        t.file("last", b"x"),
    )
    assert [entry.size for entry, _ in read(archive)] == [0, 0, 0, 0, 0, 1]


def test_bytes_after_the_end_are_accepted() -> None:
    assert read(t.archive(t.file("a")) + b"anything" * 1000)


def test_an_empty_stream_and_an_empty_archive() -> None:
    assert read(b"") == []
    assert read(t.END) == []
    assert read(bytes(512)) == []


def test_a_lone_block_of_zeros() -> None:
    with pytest.raises(CorruptContentError, match="lone block of zeros"):
        read(t.file("a") + bytes(512) + t.archive(t.file("b")))


def test_bad_checksum_names_entry_and_offset() -> None:
    archive = t.archive(t.file("fine", b"x"), t.header("broken", checksum=b"000001\0 "))
    with pytest.raises(CorruptContentError, match=r"'broken' at offset 1024.*checksum"):
        read(archive)


@pytest.mark.parametrize("flag", [b"Z", b"8", b"X", b"V", b"\xff"])
def test_unknown_types(flag: bytes) -> None:
    with pytest.raises(UnsupportedContentError, match="'a' at offset 0"):
        read(t.archive(t.entry("a", flag)))


def test_truncated_at_any_byte() -> None:
    ends = {*accumulate(map(len, SORTS)), *LAST_BLOCKS, len(ALL_SORTS) - 512}
    ends.update(range(512 + len(t.pax_records(GLOBAL)), 1024))
    for size in set(range(1, len(ALL_SORTS))) - ends:
        with pytest.raises(CorruptContentError, match="truncated"):
            read(ALL_SORTS[:size])


def test_an_end_whose_block_is_not_filled_up_is_told() -> None:
    """As one without its marker, which Go's reader takes, too."""
    assert len(LAST_BLOCKS) == 36 + 508
    for size in LAST_BLOCKS:
        reader = TarReader(Limits())
        *_, last = (entry for entry, _ in reader.feed(ALL_SORTS[:size]) if entry is not None)
        assert reader.finish() == last.name


def test_an_end_without_its_marker_is_told() -> None:
    """It may be the archive's, or a truncation: the diffID tells."""
    for count in range(2, len(SORTS) + 1):
        reader = TarReader(Limits())
        *_, (last, _) = reader.feed(b"".join(SORTS[:count]))
        assert last is not None
        assert reader.finish() == last.name
    reader = TarReader(Limits())
    assert len(list(reader.feed(ALL_SORTS[:-512]))) == len(SORTS) - 1
    assert reader.finish() == b""


def test_damaged_at_any_header_byte() -> None:
    """A header that is not what its checksum says never passes in silence."""
    for at in [*range(155), *range(156, 512)]:  # 155 is behind the checksum's end
        damaged = bytearray(t.archive(t.file("a")))
        damaged[at] ^= 0x11
        with pytest.raises(CorruptContentError):
            read(bytes(damaged))


def test_whole_or_byte_by_byte() -> None:
    assert read(ALL_SORTS) == read(ALL_SORTS[at : at + 1] for at in range(len(ALL_SORTS)))


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_split(sizes: list[int]) -> None:
    assert read(ALL_SORTS) == read(t.split(ALL_SORTS, sizes))


NAMES = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=300
).filter(lambda name: not name.endswith("/"))


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=2000), st.integers(0, 1 << 34)), max_size=8),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=200, deadline=None)
def test_what_tarfile_writes(files: list[tuple[str, bytes, int]], form: int) -> None:
    out, written = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data, mtime in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            try:
                archive.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeEncodeError):  # more than ustar can say
                continue
            written.append((name.encode(), data, mtime * SECOND))
    found = [(entry.name, data, entry.mtime) for entry, data in read(out.getvalue())]
    assert found == written


LIMITS = Limits(path_bytes=64, pax_header_bytes=4096, layer_entries=4, layer_bytes=10_000)


@pytest.mark.parametrize(
    ("archive", "limit"),
    [
        (t.archive(t.file("n" * 65)), "path_bytes"),
        (t.archive(t.symlink("a", "n" * 65)), "path_bytes"),
        (t.archive(t.file("a", pax={"comment": "c" * 4096})), "pax_header_bytes"),
        (t.archive(t.global_pax({"comment": "c" * 4096})), "pax_header_bytes"),
        (t.archive(t.extension(b"L", b"n" * 4096), t.file("a")), "pax_header_bytes"),
        (t.archive(*[t.pax({"comment": "c"})] * 10, t.file("a")), "pax_header_bytes"),
        (t.archive(*[t.file("a")] * 5), "layer_entries"),
        (t.archive(t.file("a", bytes(10_001))), "layer_bytes"),
    ],
)
def test_limits(archive: bytes, limit: str) -> None:
    with pytest.raises(LimitExceededError, match=limit):
        read(archive, LIMITS)


@given(st.binary(max_size=4096))
@settings(max_examples=300, deadline=None)
def test_fuzz_bytes(data: bytes) -> None:
    _refused_or_read(data)


@given(st.lists(st.tuples(st.integers(0, len(ALL_SORTS) - 1), st.binary(max_size=12)), max_size=6))
@settings(max_examples=500, deadline=None)
def test_fuzz_damaged_archives(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(ALL_SORTS)
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    _refused_or_read(bytes(data))


@given(st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=12)), max_size=4))
@settings(max_examples=500, deadline=None)
def test_fuzz_headers_with_right_checksums(changes: list[tuple[int, bytes]]) -> None:
    block = bytearray(t.header("a", size=3))
    for at, replacement in changes:
        block[at : at + len(replacement)] = replacement
    _refused_or_read(t.seal(bytes(block[:512])) + t.padded(b"abc") + t.END)


def _refused_or_read(data: bytes) -> None:
    """Only the errors of the contract, and the same whatever the split."""

    def outcome(pieces: Iterable[bytes]) -> object:
        try:
            return read(pieces)
        except (CorruptContentError, LimitExceededError) as error:
            return type(error), str(error)

    assert outcome([data]) == outcome(t.split(data, [1, 700, 3]))
