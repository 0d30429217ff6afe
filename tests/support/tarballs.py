"""Small builders of raw tar archives, hostile ones included, independent of `tarfile`.

`archive(file("a", b"x"), directory("d"), ...)` is a whole archive. Every entry builder takes the
header's fields by keyword (`mode`, `uid`, `gid`, `mtime` in seconds, `pax`: PAX records).
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(value: int, width: int) -> bytes:
    """A NUL-terminated octal field, or base-256 where it does not fit or is negative."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def base256(value: int, width: int) -> bytes:
    """A number in GNU's binary form."""
    body = bytearray(value.to_bytes(width, "big", signed=True))
    body[0] |= 0x80
    return bytes(body)


def padded(data: bytes) -> bytes:
    """`data`, filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def header(
    name: str | bytes,
    type_flag: bytes = b"0",
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_600_000_000,
    link: str | bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    checksum: bytes | None = None,
    size_field: bytes | None = None,
) -> bytes:
    """One header block. Names are cut at their field's width."""
    block = b"".join(
        (
            _bytes(name)[:100].ljust(100, b"\0"),
            octal(mode, 8),
            octal(uid, 8),
            octal(gid, 8),
            octal(size, 12) if size_field is None else size_field,
            octal(mtime, 12),
            b" " * 8,
            type_flag,
            _bytes(link)[:100].ljust(100, b"\0"),
            magic,
            bytes(64),
            octal(device[0], 8),
            octal(device[1], 8),
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    return seal(block) if checksum is None else block[:148] + checksum + block[156:]


def seal(block: bytes) -> bytes:
    """`block` with its right checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def pax_records(records: Mapping[str, str | bytes]) -> bytes:
    """The body of a PAX header."""
    out = []
    for key, value in records.items():
        rest = b" " + _bytes(key) + b"=" + _bytes(value) + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        out.append(str(length).encode() + rest)
    return b"".join(out)


def extension(type_flag: bytes, body: bytes, name: str = "ext") -> bytes:
    """A header of metadata: `x`, `g`, `L`, `K`."""
    return header(name, type_flag, size=len(body)) + padded(body)


def pax(records: Mapping[str, str | bytes]) -> bytes:
    """A PAX header for the entry that follows."""
    return extension(b"x", pax_records(records))


def global_pax(records: Mapping[str, str | bytes]) -> bytes:
    """A PAX header for all entries that follow."""
    return extension(b"g", pax_records(records))


def entry(
    name: str | bytes,
    type_flag: bytes,
    data: bytes = b"",
    *,
    pax: Mapping[str, str | bytes] | None = None,
    **fields: object,
) -> bytes:
    """One entry; names over 100 bytes go into GNU long-name headers."""
    out = []
    if pax:
        out.append(extension(b"x", pax_records(pax)))
    link = _bytes(fields.get("link", b""))  # type: ignore[arg-type]
    if len(link) > 100:
        out.append(extension(b"K", link + b"\0"))
    if len(_bytes(name)) > 100:
        out.append(extension(b"L", _bytes(name) + b"\0"))
    fields.setdefault("size", len(data))
    out.append(header(name, type_flag, **fields))  # type: ignore[arg-type]
    out.append(padded(data))
    return b"".join(out)


def file(name: str | bytes, data: bytes = b"", **fields: object) -> bytes:
    """A regular file."""
    return entry(name, b"0", data, **fields)  # type: ignore[arg-type]


def directory(name: str | bytes, **fields: object) -> bytes:
    """A directory."""
    fields.setdefault("mode", 0o755)
    return entry(_bytes(name) + b"/", b"5", **fields)  # type: ignore[arg-type]


def symlink(name: str | bytes, target: str | bytes, **fields: object) -> bytes:
    """A symbolic link."""
    fields.setdefault("mode", 0o777)
    return entry(name, b"2", link=target, **fields)  # type: ignore[arg-type]


def hardlink(name: str | bytes, target: str | bytes, **fields: object) -> bytes:
    """A hard link."""
    return entry(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def device(name: str | bytes, major: int, minor: int, *, block: bool = False) -> bytes:
    """A device node."""
    return entry(name, b"4" if block else b"3", device=(major, minor))


def fifo(name: str | bytes, **fields: object) -> bytes:
    """A named pipe."""
    return entry(name, b"6", **fields)  # type: ignore[arg-type]


def whiteout(name: str) -> bytes:
    """Hides `name` of the layers below."""
    parent, slash, base = name.rpartition("/")
    return file(f"{parent}{slash}.wh.{base}")


def opaque(directory_name: str = "") -> bytes:
    """Hides all that the layers below hold in the directory."""
    return file(f"{directory_name}/.wh..wh..opq" if directory_name else ".wh..wh..opq")


def archive(*entries: bytes) -> bytes:
    """Entries and the end marker."""
    return b"".join(entries) + END


def gz(data: bytes, level: int = 6) -> bytes:
    """`data` as one reproducible gzip member."""
    return gzip.compress(data, level, mtime=0)


def zst(data: bytes, level: int = 3) -> bytes:
    """`data` as one zstd frame."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    return bytes(zstd.compress(data, level))


def gz_zeros(size: int) -> bytes:
    """A gzip member of `size` zeros, made quickly from one repeated member part."""
    import zlib

    compressor = zlib.compressobj(9, wbits=31)
    step = 1 << 26
    parts = [compressor.compress(bytes(min(step, size - at))) for at in range(0, size, step)]
    return b"".join(parts) + compressor.flush()


def split(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` in pieces of the given sizes, repeated as needed."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = max(1, sizes[turn % len(sizes)])
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
