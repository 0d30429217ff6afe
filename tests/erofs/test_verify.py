"""What the kernel would be led astray by is refused before it sees it: whoever took a writer over
can write any image."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri_imaged.erofs.claims import Claims
from cri_imaged.erofs.directories import value
from cri_imaged.erofs.format import (
    BLOCK,
    DIRECTORY,
    DIRENT,
    HOLE,
    ROOT_NID,
    SLOT,
    SUPER,
    SUPER_SIZE,
    TYPES,
    Inode,
    Stat,
    encode_inode,
    encode_superblock,
)
from cri_imaged.erofs.reader import Found, Image
from cri_imaged.erofs.verify import verify
from cri_imaged.erofs.writer import ImageWriter
from cri_imaged.erofs.xattrs import encode_xattr, shared_ones
from cri_imaged.errors import CorruptContentError
from tests.layers.direct import apply_image
from tests.support import tarballs as t
from tests.support.erofs import fsck, mounted

SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "900000"}
LAYER = t.archive(
    t.directory("d", pax={"SCHILY.xattr.user.a": "1" * 40}),
    t.directory("d/e", pax={"SCHILY.xattr.user.a": "1" * 40}),
    t.directory("d/g", pax={"SCHILY.xattr.user.b": "1"}),
    t.file("d/file", b"f" * 9000, mtime=7, pax={"SCHILY.xattr.user.a": "1" * 40}),
    t.file("d/empty"),
    t.file("d/s", b"x" * 8192, pax={**SPARSE, "GNU.sparse.map": "0,4096,700000,4096"}),
    t.symlink("d/link", "file"),
    t.hardlink("d/twin", "d/file"),
    *(t.fifo("d/pipe"), t.device("d/null", 1, 3)),
)
NAMES = 100


class Patient:
    """An image, to be spoilt."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.image = Image(lambda address, size: bytes(self.data[address : address + size]))

    def find(self, path: bytes) -> Found:
        found = self.image.inode()
        for name in path.split(b"/") if path else ():
            dirent = self.image.lookup(found, name)
            assert dirent is not None
            found = self.image.inode(dirent.entry.nid)
        return found

    def put(self, form: str, at: int, *values: int) -> None:
        struct.pack_into(f"<{form}", self.data, at, *values)

    def put_inode(self, path: bytes, form: str, offset: int, *values: int) -> None:
        self.put(form, self.find(path).address + offset, *values)

    def dirent(self, path: bytes) -> int:
        """The address of the entry `path`."""
        folder, _, name = path.rpartition(b"/")
        dirent = self.image.lookup(self.find(folder), name)
        assert dirent is not None
        return dirent.address

    def seal(self) -> None:
        """Let the checksum be right."""
        blocks = len(self.data) // BLOCK
        first = bytes(self.data[:BLOCK])
        self.data[SUPER : SUPER + SUPER_SIZE] = encode_superblock(first, 1, blocks)


def point(path: bytes, to: Callable[[Patient], int]) -> Callable[[Patient], None]:
    """Let a name stand for another number."""
    return lambda image: image.put("Q", image.dirent(path), to(image))


def rename(path: bytes, name: bytes) -> Callable[[Patient], None]:
    """Write over a name with one of the same length."""

    def change(image: Patient) -> None:
        folder = image.find(path.rpartition(b"/")[0])
        old = path.rpartition(b"/")[2]
        assert len(old) == len(name)
        at = image.data.index(old, folder.address)
        image.data[at : at + len(name)] = name

    return change


def changed(*changes: Callable[[Patient], None]) -> Callable[[Patient], None]:
    """All of them."""

    def change(image: Patient) -> None:
        for each in changes:
            each(image)

    return change


def copy_to_the_begin(image: Patient) -> None:
    """Of the image, an inode: before the superblock anything may be."""
    address = image.find(b"d/pipe").address
    image.data[:64] = image.data[address : address + 64]


MALFORMED: dict[str, Callable[[Patient], None]] = {
    "compressed data": lambda image: image.put_inode(b"d/file", "H", 0, 1 | 3 << 1),
    "compact compressed data": lambda image: image.put_inode(b"d/file", "H", 0, 1 | 1 << 1),
    "unknown bits in a format": lambda image: image.put_inode(b"d/file", "H", 0, 1 | 1 << 4),
    "a number of blocks' high bits": lambda image: image.put_inode(b"d/file", "H", 6, 1),
    "a size over 63 bits": lambda image: image.put_inode(b"d/s", "Q", 8, 1 << 63),
    "more nanoseconds than a second": lambda image: image.put_inode(b"d/file", "I", 40, 10**9),
    "data behind the end": lambda image: image.put_inode(b"d/file", "I", 16, 1 << 20),
    "data in the superblock": lambda image: image.put_inode(b"d/file", "I", 16, 0),
    "more data than there is": lambda image: image.put_inode(b"d/file", "Q", 8, 1 << 40),
    "an inline part of no bytes": lambda image: image.put_inode(b"d/file", "Q", 8, 8192),
    "an inline part over a block's end": lambda image: image.put_inode(b"d/file", "Q", 8, 12287),
    "a chunk behind the end": lambda image: image.put("I", image.find(b"d/s").behind, 1 << 20),
    "chunks of an unknown form": lambda image: image.put_inode(b"d/s", "I", 16, 1 << 5),
    "a directory in chunks": lambda image: image.put_inode(b"d", "H", 0, 1 | 4 << 1),
    "attributes over a block's end": lambda image: image.put_inode(b"d/file", "H", 2, 2000),
    "an attribute of an unknown kind": lambda image: image.put(
        "B", image.find(b"d/g").behind - 8 + 1, 9
    ),
    "an attribute's name over the end": lambda image: image.put(
        "B", image.find(b"d/g").behind - 8, 200
    ),
    "a shared attribute behind the end": lambda image: image.put(
        "I", image.find(b"d/e").behind - 4, 1 << 30
    ),
    "no name for a file": lambda image: image.put_inode(b"d/file", "I", 44, 0),
    "a directory that says another number of directories": lambda image: image.put_inode(
        b"d", "I", 44, 9
    ),
    "a link without a target": lambda image: image.put_inode(b"d/link", "I", 8, 0),
    "a link that is too long": lambda image: image.put_inode(b"d/link", "I", 8, 4096),
    "a link with a zero in it": lambda image: image.put("B", image.find(b"d/link").behind, 0),
    "an attribute with a zero in its name": lambda image: image.put(
        "B", image.find(b"d/g").behind - 4, 0
    ),
    "a device with data": lambda image: image.put_inode(b"d/null", "I", 8, 1),
    "a whiteout": lambda image: image.put_inode(b"d/null", "I", 16, 0),
    "a name's type is another": lambda image: image.put("B", image.dirent(b"d/file") + 10, 7),
    "a kind that no layer has": lambda image: image.put_inode(b"d/pipe", "H", 4, 0o140644),
    "a number behind the end": point(b"d/file", lambda image: 1 << 40),
    "a number in the superblock": point(b"d/file", lambda image: 32),
    "a directory in itself": point(b"d/e", lambda image: image.find(b"d").nid),
    "the root in a directory": point(b"d/e", lambda image: ROOT_NID),
    "one directory twice": point(b"d/g", lambda image: image.find(b"d/e").nid),
    "one directory twice, which is counted once": changed(
        point(b"d/g", lambda image: image.find(b"d/e").nid),
        lambda image: image.put_inode(b"d", "I", 44, 3),
    ),
    "a directory without itself and its parent": changed(
        lambda image: image.put_inode(b"d/e", "H", 0, 1),
        lambda image: image.put_inode(b"d/e", "Q", 8, 0),
    ),
    "an inode before the superblock": changed(copy_to_the_begin, point(b"d/pipe", lambda _: 0)),
    "a fifo with a number": lambda image: image.put_inode(b"d/pipe", "I", 16, 5),
    "a link in chunks": changed(
        lambda image: image.put_inode(
            b"d/link", "H", 0, image.data[image.find(b"d/link").address] & 1 | 4 << 1
        ),
        lambda image: image.put("I", image.find(b"d/link").behind, HOLE),
    ),
    "a wrong parent": point(b"d/e/..", lambda image: ROOT_NID),
    "itself as a file": lambda image: image.put("B", image.dirent(b"d/e/.") + 10, 1),
    "a wrong self": point(b"d/e/.", lambda image: ROOT_NID),
    "names that are not sorted": rename(b"d/empty", b"zzzzz"),
    "a name twice": rename(b"d/link", b"file"),
    "a slash in a name": rename(b"d/file", b"fi/e"),
    "a zero in a name": rename(b"d/file", b"fi\0e"),
    "names that begin among the entries": lambda image: image.put(
        "H", image.dirent(b"d/e/.") + 8, DIRENT.size
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "image"
    apply_image(path, [LAYER])
    return path.read_bytes()


def judge(data: bytes | bytearray, names: int = NAMES) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        verify(file.fileno(), names, lambda: None)


def test_an_honest_image_passes(sound: bytes) -> None:
    judge(sound)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_image_is_refused(name: str, sound: bytes) -> None:
    image = Patient(sound)
    MALFORMED[name](image)
    assert image.data != sound
    image.seal()
    with pytest.raises(CorruptContentError, match="image of a layer"):
        judge(image.data)


@pytest.mark.parametrize("at", range(SUPER, SUPER + SUPER_SIZE))
def test_every_byte_of_the_superblock_counts(at: int, sound: bytes) -> None:
    """All of it is given but the number of inodes, which is only told."""
    spoilt = bytearray(sound)
    spoilt[at] ^= 0x40
    spoilt[SUPER + 4 : SUPER + 8] = bytes(4)
    with pytest.raises(CorruptContentError, match="superblock"):
        judge(bytes(spoilt))


@pytest.mark.parametrize("size", [0, BLOCK, -BLOCK, -1])
def test_an_image_of_another_size_is_refused(size: int, sound: bytes) -> None:
    with pytest.raises(CorruptContentError):
        judge(sound[:size])
    with pytest.raises(CorruptContentError, match="superblock"):
        judge(sound + bytes(BLOCK))


def test_more_names_than_a_layer_may_have(sound: bytes) -> None:
    names = 10  # without the two that each directory has: they are no entries
    judge(sound, names)
    with pytest.raises(CorruptContentError, match="more names"):
        judge(sound, names - 1)


def test_a_pipe_is_no_image() -> None:
    ends = os.pipe()
    try:
        with pytest.raises(CorruptContentError, match="file"):
            verify(ends[0], NAMES, lambda: None)
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("name", [b"trusted.overlay.opaque", b"user.overlay.redirect"])
@pytest.mark.parametrize("shared", [False, True])
def test_attributes_that_overlay_would_obey(name: bytes, shared: bool) -> None:
    entry = encode_xattr(name, b"y")
    assert entry is not None
    with tempfile.TemporaryFile() as file:
        writer = ImageWriter.begin(file.fileno())
        status = Stat(stat.S_IFIFO | 0o644, 0, 0, 0)
        nodes = [writer.node(status, {name: entry}) for _ in range(1 + shared)]
        fifo = TYPES[stat.S_IFIFO]
        names = {b"%d" % number: value(nid, fifo) for number, nid in enumerate(nodes[-1:])}
        writer.root(Stat(stat.S_IFDIR | 0o755, 0, 0, 0), {}, names)
        writer.finish()
        with pytest.raises(CorruptContentError, match="extended attribute"):
            verify(file.fileno(), NAMES, lambda: None)


FIFO = Stat(stat.S_IFIFO | 0o644, 0, 0, 0)
LONG = Stat(stat.S_IFIFO | 0o644, 0, 0, 5)
ROOT = Stat(stat.S_IFDIR | 0o755, 0, 0, 0)
NUMBER = TYPES[stat.S_IFIFO]


def overlapping(what: str, writer: ImageWriter) -> dict[bytes, int]:
    """Names of what is in the place of something else."""
    hidden = encode_inode(Inode(FIFO, 0), 0)
    if what == "one name's file under two":
        nid = writer.node(FIFO, {})
        return {b"a": value(nid, NUMBER), b"b": value(nid, NUMBER)}
    if what == "an inode in another one's attributes":
        # 64 bytes of the inode, 12 of a header, 4 and 6 of names: the 10 fill a slot.
        entry = encode_xattr(b"trusted.holder", bytes(10) + hidden)
        assert entry is not None
        nid = writer.node(LONG, {b"trusted.holder": entry})
        return {b"a": value(nid, NUMBER), b"b": value(nid + 3, NUMBER)}
    image = Image(writer.blocks.get)
    if what == "an inode in an attribute that others have too":
        entry = encode_xattr(b"trusted.holder", bytes(22) + hidden)
        assert entry is not None
        nids = [writer.node(LONG, {b"trusted.holder": entry}) for _ in range(2)]
        (place,) = shared_ones(image.body(image.inode(nids[1])))
        nids.append(4 * place // SLOT + 1)
        return {b"%d" % number: value(nid, NUMBER) for number, nid in enumerate(nids)}
    if what == "an attribute that others have too in a sparse file's map":
        # Its bytes are the number of a block and a hole.
        name, size = b"\xff" * 4, 2 * BLOCK
        entry = encode_xattr(b"trusted." + name, b"")
        assert entry is not None
        writer.blocks.skip((int.from_bytes(entry[:4], "little") + 1) * BLOCK)
        writer.begin_sparse(Stat(stat.S_IFREG, 0, 0, 0), {}, (), size)
        nid = writer.end_file()
        chunk_map = image.inode(nid).behind
        writer.blocks.put(chunk_map, entry)
        fifos = [writer.node(FIFO, {b"a": entry}) for _ in range(2)]
        writer.blocks.put(image.inode(fifos[1]).behind - 4, struct.pack("<I", chunk_map // 4))
        return {b"a": value(nid, TYPES[stat.S_IFREG]), b"b": value(fifos[1], NUMBER)}
    if what == "the names of two directories":
        fifo = writer.node(FIFO, {}, links=2)
        # They come before the two that a directory has, which are so in its last part.
        names = {b"!%03d" % number: value(fifo, NUMBER) for number in range(300)}
        first, second = (writer.directory(ROOT, {}, names) for _ in range(2))
        for each in (first, second):
            writer.set_parent(each.parent_at, ROOT_NID)
        shared = struct.pack("<I", image.inode(first.nid).inode.place)
        writer.blocks.put(second.nid * SLOT + 16, shared)
        return {b"a": value(first.nid, DIRECTORY), b"b": value(second.nid, DIRECTORY)}
    writer.begin_file(Stat(stat.S_IFREG | 0o644, 0, 0, 5), {}, 32)
    writer.write(memoryview(hidden))
    nid = writer.end_file()
    return {b"a": value(nid, TYPES[stat.S_IFREG]), b"b": value(nid + 2, NUMBER)}


@pytest.mark.parametrize(
    "what",
    [
        "one name's file under two",
        "an inode in another one's attributes",
        "an inode in a file's last part",
        "an inode in an attribute that others have too",
        "an attribute that others have too in a sparse file's map",
        "the names of two directories",
    ],
)
def test_two_things_in_one_place(what: str) -> None:
    """The seal changes some structures. In their place nothing may be that was judged before."""
    with tempfile.TemporaryFile() as file:
        writer = ImageWriter.begin(file.fileno())
        names = overlapping(what, writer)
        writer.root(ROOT, {}, names)
        writer.finish()
        with pytest.raises(CorruptContentError, match="two things are in one place"):
            verify(file.fileno(), 1000, lambda: None)


def test_places_are_told_apart_by_slots() -> None:
    claims = Claims()
    claims.take(BLOCK - 64, 64 + 3 * BLOCK)
    for address, size in ((BLOCK - 32, 1), (2 * BLOCK, 1), (0, 2 * BLOCK), (4 * BLOCK - 1, 2)):
        with pytest.raises(CorruptContentError, match="in one place"):
            claims.take(address, size)
    claims.take(BLOCK - 96, 32)
    claims.take(4 * BLOCK, 33)
    with pytest.raises(CorruptContentError, match="in one place"):
        claims.take(4 * BLOCK + 32, 1)


def test_a_list_of_no_attributes() -> None:
    """The kernel shows none of that inode then."""
    with tempfile.TemporaryFile() as file:
        writer = ImageWriter.begin(file.fileno())
        entry = encode_xattr(b"trusted.a", b"")
        assert entry is not None
        nid = writer.node(FIFO, {b"trusted.a": entry})
        writer.root(ROOT, {}, {b"a": value(nid, NUMBER)})
        writer.finish()
        verify(file.fileno(), NAMES, lambda: None)
        os.pwrite(file.fileno(), struct.pack("<H", 1), nid * 32 + 2)
        with pytest.raises(CorruptContentError, match="extended attribute"):
            verify(file.fileno(), NAMES, lambda: None)


def test_an_attribute_of_a_longer_name_than_can_be_asked_for() -> None:
    with tempfile.TemporaryFile() as file:
        writer = ImageWriter.begin(file.fileno())
        rest = b"n" * 250
        nid = writer.node(
            FIFO, {b"trusted.n": struct.pack("<BBH", len(rest), 4, 0) + rest + b"\0\0"}
        )
        writer.root(ROOT, {}, {b"a": value(nid, NUMBER)})
        writer.finish()
        with pytest.raises(CorruptContentError, match="extended attribute"):
            verify(file.fileno(), NAMES, lambda: None)


@pytest.mark.parametrize(("length", "passes"), [(255, True), (256, False)])
def test_a_name_may_be_so_long(length: int, passes: bool) -> None:
    """The last one ends where the directory does."""
    with tempfile.TemporaryFile() as file:
        writer = ImageWriter.begin(file.fileno())
        fifo = writer.node(FIFO, {})
        writer.root(ROOT, {}, {b"n" * 255: value(fifo, NUMBER)})
        writer.finish()
        file.seek(0)
        image = Patient(file.read())
    root = image.find(b"")
    image.put("Q", root.address + 8, root.inode.size - 255 + length)
    image.put("B", root.behind + root.inode.size, ord("n") if length > 255 else 0)
    image.seal()
    if passes:
        judge(image.data)
    else:
        with pytest.raises(CorruptContentError, match="a name"):
            judge(image.data)


def test_a_files_last_part_ends_in_the_block_of_its_inode() -> None:
    """Where the next block is another file's data, nothing else is in its way."""
    with tempfile.TemporaryFile() as file:
        writer = ImageWriter.begin(file.fileno())
        names = {b"a": value(writer.node(FIFO, {}), NUMBER)}
        for name, size in ((b"b", BLOCK), (b"c", 100)):
            writer.begin_file(Stat(stat.S_IFREG | 0o644, 0, 0, 0), {}, size)
            writer.write(memoryview(bytes(size)))
            nid = writer.end_file()
            names[name] = value(nid, TYPES[stat.S_IFREG])
        writer.root(ROOT, {}, names)
        writer.finish()
        verify(file.fileno(), NAMES, lambda: None)
        os.pwrite(file.fileno(), struct.pack("<I", BLOCK - 1), nid * SLOT + 8)
        with pytest.raises(CorruptContentError, match="image of a layer"):
            verify(file.fileno(), NAMES, lambda: None)


TWINS = t.archive(
    *(t.file(name, b"x", mtime=7) for name in "ac"),
    *(t.hardlink(name, to, mtime=7) for name, to in ("ba", "dc")),
)
ALIKE = t.archive(
    *(
        t.file(f"{number}{value}", pax={"SCHILY.xattr.user.a": value})
        for value in "xy"
        for number in range(3)
    )
)


@pytest.mark.parametrize(
    ("layer", "limit", "what"),
    [
        (TWINS, "_MOST_KNOWN", "several names"),
        (t.archive(t.directory("e"), t.directory("f")), "_MOST_KNOWN", "too many others"),
        (ALIKE, "MOST_SHARED", "extended attribute"),
    ],
)
def test_what_is_kept_in_memory_meanwhile_has_a_limit(
    layer: bytes, limit: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_image(tmp_path / "image", [layer])
    image = (tmp_path / "image").read_bytes()
    monkeypatch.setattr(f"cri_imaged.erofs.verify.{limit}", 2)
    judge(image)
    monkeypatch.setattr(f"cri_imaged.erofs.verify.{limit}", 1)
    with pytest.raises(CorruptContentError, match=what):
        judge(image)


def test_no_more_attributes_are_shared_than_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("writer", "verify"):
        monkeypatch.setattr(f"cri_imaged.erofs.{module}.MOST_SHARED", 1)
    apply_image(tmp_path / "image", [ALIKE])
    judge((tmp_path / "image").read_bytes())


MANY = {f"SCHILY.xattr.user.{number}": "" for number in range(400)}
HOLES = {**SPARSE, "GNU.sparse.size": "1000000000", "GNU.sparse.map": "0,4096"}


@pytest.mark.parametrize("file", [t.file("f", pax=MANY), t.file("f", b"x" * 4096, pax=HOLES)])
def test_what_a_file_has_is_looked_at_once_however_many_names_it_has(
    file: bytes, tmp_path: Path
) -> None:
    names = [t.hardlink(f"{number}", "f", mtime=7) for number in range(100)]
    apply_image(tmp_path / "image", [t.archive(file, *names)])
    sound = Patient((tmp_path / "image").read_bytes())
    judge(sound.data, 2 * len(names))
    sound.put_inode(b"f", "I", 44, 1)  # and where it says that it has but one, it is a lie
    sound.seal()
    with pytest.raises(CorruptContentError, match=r"attribute|sparse|in one place"):
        judge(sound.data, 2 * len(names))


PATHS = [b"", b"d", b"d/e", b"d/g", b"d/file", b"d/empty", b"d/s", b"d/link", b"d/pipe", b"d/null"]
CHANGES = st.lists(
    st.tuples(
        # Anywhere, or in an inode and what follows it.
        st.tuples(st.just(None), st.integers(0, (1 << 16) - 1))
        | st.tuples(st.sampled_from(PATHS), st.integers(0, 100)),
        st.sampled_from([0, 1, 2, 4, 7, 0x7F, 0x80, 0xFF]) | st.integers(0, 255),
    ),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CHANGES)
def test_the_kernel_takes_whatever_passes(
    sound: bytes, changes: list[tuple[tuple[bytes | None, int], int]]
) -> None:
    image, unspoilt = Patient(sound), Patient(sound)
    for (path, offset), byte in changes:
        begin = 0 if path is None else unspoilt.find(path).address
        image.data[(begin + offset) % len(sound)] = byte
    image.seal()
    with tempfile.NamedTemporaryFile() as file:
        file.write(image.data)
        file.flush()
        try:
            verify(file.fileno(), NAMES, lambda: None)
        except CorruptContentError:
            return
        assert fsck(Path(file.name)) == ""
        with mounted(Path(file.name)) as shown:
            walk(shown)


def walk(tree: Path) -> None:
    """Let the kernel read all of it."""
    for path in (tree, *tree.rglob("*")):
        for name in os.listxattr(path, follow_symlinks=False):
            os.getxattr(path, name, follow_symlinks=False)
        if path.is_symlink():
            os.readlink(path)
        elif path.is_file():
            with path.open("rb") as file:
                file.read(1 << 20)
                file.seek(-min(1 << 20, path.stat().st_size), os.SEEK_END)
                file.read()
