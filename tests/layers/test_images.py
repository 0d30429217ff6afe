"""A layer that becomes an image is the layer that becomes a directory: the same tree in the
kernel's eyes, the same things left to the seal, the same archives refused."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri_imaged.erofs.verify import verify
from cri_imaged.errors import ImagedError
from cri_imaged.limits import Limits
from cri_imaged.ports import Skipped
from cri_imaged.trash import remove_tree
from tests.layers import hostile, test_entries, test_whiteouts
from tests.layers.direct import apply_image, apply_into
from tests.layers.listing import Node, listing
from tests.support import tarballs as t
from tests.support.erofs import fsck, make, mounted

ACL = b"\x02\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, mode, who in (
        *((1, 7, 0xFFFFFFFF), (2, 5, 1000), (4, 5, 0xFFFFFFFF)),
        *((16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)),
    )
)
MINIMAL_ACL = ACL[:12] + ACL[20:28] + ACL[36:]
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
XATTRS = {
    "SCHILY.xattr.user.a": b"1",
    "SCHILY.xattr.user.b": b"2" * 300,
    "SCHILY.xattr.security.capability": CAPABILITY,
    "SCHILY.xattr.system.posix_acl_access": ACL,
    "SCHILY.xattr.trusted.overlay.opaque": b"y",
    "SCHILY.xattr.other.name": b"1",
    "SCHILY.xattr.user.": b"1",
}
EXT4_SECONDS = -(1 << 31), (1 << 34) - (1 << 31) - 1
LAYERS = {
    "attributes": test_entries.LAYER,
    "xattrs": t.archive(
        *(t.file(f"f{number}", b"x", mode=0o751, pax=XATTRS) for number in range(4)),
        t.directory("d", mode=0o2775, pax={**XATTRS, "SCHILY.xattr.system.posix_acl_default": ACL}),
        t.file("minimal", pax={"SCHILY.xattr.system.posix_acl_access": MINIMAL_ACL}),
        t.file("malformed", pax={"SCHILY.xattr.system.posix_acl_access": ACL[:-1]}),
        t.file("not sorted", pax={"SCHILY.xattr.system.posix_acl_access": ACL[:4] + ACL[:3:-8]}),
        t.file("bad capability", pax={"SCHILY.xattr.security.capability": b"x"}),
        t.symlink("link", "f0", pax=XATTRS),
        t.fifo("fifo", pax=XATTRS),
    ),
    "hardlinks": t.archive(
        t.file("a", b"a" * 5000, mode=0o4755, uid=1, mtime=5),
        t.hardlink("b", "a", mode=0o640, uid=2, gid=3, mtime=9),
        t.hardlink("c", "b", mode=0o640, uid=2, gid=3, mtime=9, pax={"SCHILY.xattr.user.x": b"y"}),
        t.file("gone", b"x"),
        t.hardlink("kept", "gone"),
        t.file("gone", b"another"),
        t.symlink("s", "a"),
        t.hardlink("s2", "s"),
        t.fifo("p"),
        t.hardlink("p2", "p", mode=0o600, mtime=1),
        t.file(
            "tool", b"x", uid=0, mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY}
        ),
        t.hardlink("tool2", "tool", uid=7, mode=0o755),
        t.hardlink("below", "not/here", uid=7),
    ),
    "replacing": t.archive(
        t.file("a/b/c", b"1"),
        t.file("a", b"2"),
        t.file("d", b"3"),
        t.directory("d", mode=0o700),
        t.file("d/e", b"4"),
        t.symlink("into", "d"),
        t.file("into/f", b"5"),
        t.directory("into"),
        t.file("over", b"5" * 9000),
        t.file("over", b""),
    ),
    "a directory of many blocks": t.archive(
        *(t.file(f"many/{number}-{'n' * (number % 230)}") for number in range(1500)),
        *(t.directory(f"many/!{number}") for number in range(300)),
    ),
    "sizes": t.archive(
        *(t.file(f"{size}", os.urandom(size)) for size in (0, 1, 4031, 4032, 4033, 4095, 4096)),
        *(t.file(f"{size}", os.urandom(size)) for size in (4097, 8191, 8192, 1 << 20, 3000001)),
    ),
    "times": t.archive(
        *(t.file(f"{time}", mtime=time) for time in (0, 1, 1 << 33, -(1 << 33))),
        t.file("fine", pax={"mtime": "-1.5"}),
    ),
    "owners": t.archive(*(t.file(f"{owner}", uid=owner, gid=owner) for owner in (65535, 65536))),
    "an inode at the very end": t.archive(t.file("a", b"x" * 4032, mtime=0), t.file("b", mtime=0)),
    "nothing": t.archive(),
}


def compare(archive: bytes, folder: Path, limits: Limits | None = None) -> None:
    """Apply `archive` both ways."""
    chosen = limits or Limits()
    directory, image = folder / "directory", folder / "image"
    directory.mkdir()
    refused: list[str] = []
    try:
        wanted, wanted_sink = apply_into(directory, archive, limits=chosen)
    except (ImagedError, OSError) as error:
        refused.append(type(error).__name__)
    try:
        found, found_sink = apply_image(image, [archive], limits=chosen)
    except (ImagedError, OSError) as error:
        refused.append(type(error).__name__)
    if refused:
        assert refused == [refused[0]] * 2
        return
    assert fsck(image) == ""
    with image.open("rb") as file:
        verify(file.fileno(), chosen.layer_entries, lambda: None)
    devices = {name for device in wanted.sealable.devices for name in device.names}
    with mounted(image) as shown:
        tree = {path: _comparable(node) for path, node in listing(shown).items()}
    made = {path: node for path, node in tree.items() if os.fsencode(path) in devices}
    assert {os.fsencode(path) for path in made} == devices
    for path in made:
        del tree[path]
    assert tree == {path: _comparable(node) for path, node in listing(directory).items()}
    for field in ("whiteouts", "opaques", "implicit", "links"):
        assert getattr(found.sealable, field) == getattr(wanted.sealable, field)
    assert _comparable_skips(found_sink.skipped()) == _comparable_skips(wanted_sink.skipped())


def _comparable(node: Node) -> Node:
    # What is late is in an image already; names of one file are told by their number of links.
    late = ("security.", "trusted.", "system.posix_acl_default")
    xattrs = tuple(
        (name, value)
        for name, value in node.xattrs
        if name == "security.capability" or not name.startswith(late)
    )
    # ext4 clamps times that an image holds.
    first, last = EXT4_SECONDS
    mtime = min(max(node.mtime_ns, first * 10**9), last * 10**9)
    links = 1 if node.kind == "directory" else node.links
    return replace(node, inode=0, links=links, mtime_ns=mtime, xattrs=xattrs)


def _comparable_skips(skipped: Skipped) -> Skipped:
    return replace(skipped, times=0, xattrs=0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_same_in_an_image(name: str, tmp_path: Path) -> None:
    compare(LAYERS[name], tmp_path)


@pytest.mark.parametrize("name", LAYERS)
def test_mkfs_makes_the_same_of_the_tree(name: str, tmp_path: Path) -> None:
    apply_image(tmp_path / "ours", [LAYERS[name]])
    with mounted(tmp_path / "ours") as ours:
        make(tmp_path / "theirs", ours)
        with mounted(tmp_path / "theirs") as theirs:
            found, expected = (
                {path: replace(node, inode=0) for path, node in listing(tree).items()}
                for tree in (ours, theirs)
            )
    assert found == expected


DEEP = "2000 directories deep"


@pytest.mark.parametrize("name", [name for name in hostile.CASES if name != DEEP])
def test_a_hostile_layer_is_the_same_in_an_image(name: str, tmp_path: Path) -> None:
    try:
        compare(hostile.CASES[name].build(str(tmp_path / "victim")), tmp_path)
    finally:
        remove_tree(tmp_path / "directory")  # some are too deep for pytest


def test_a_tree_of_any_depth(tmp_path: Path) -> None:
    apply_image(tmp_path / "image", [hostile.CASES[DEEP].build("")])
    assert fsck(tmp_path / "image") == ""


NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", "!", "x" * 255]), min_size=1, max_size=4)
PATHS = NAMES.map("/".join)
COMMON = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.sampled_from([0, 1000, 1 << 16, (1 << 32) - 2]),
        "mtime": st.sampled_from([0, 1, 1 << 31, -5]),
    },
    optional={"pax": st.sampled_from([XATTRS, {"SCHILY.xattr.user.a": b"1", "mtime": "1.25"}])},
)


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    name, common = draw(PATHS), draw(COMMON)
    match draw(
        st.sampled_from(["file", "file", "directory", "symlink", "hardlink", "fifo", "hide"])
    ):
        case "file":
            size = draw(st.sampled_from([0, 1, 4000, 4096, 9000]))
            return t.file(name, name.encode()[:1] * size, **common)
        case "directory":
            return t.directory(name, **common)
        case "symlink":
            return t.symlink(name, draw(PATHS), **common)
        case "hardlink":
            return t.hardlink(name, draw(PATHS), **common)
        case "fifo":
            return t.fifo(name, **common)
    return t.whiteout(name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), max_size=12))
def test_any_layer_is_the_same_in_an_image(parts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compare(t.archive(*parts), Path(folder))


@settings(max_examples=25, deadline=None)
@given(test_whiteouts.STEPS)
def test_what_is_left_to_the_seal_is_the_same(steps: list[test_whiteouts.Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compare(test_whiteouts.built(steps), Path(folder))


@pytest.mark.parametrize("chunk", [1, 511, 7_000])
def test_the_same_layer_gives_the_same_image(chunk: int, tmp_path: Path) -> None:
    archive = LAYERS["attributes"] + LAYERS["hardlinks"] + LAYERS["xattrs"]
    pieces = t.split(archive, [chunk] * (len(archive) // chunk))
    images = tmp_path / "one", tmp_path / "other"
    apply_image(images[0], [archive])
    apply_image(images[1], filter(None, pieces))
    digests = {hashlib.sha256(image.read_bytes()).hexdigest() for image in images}
    assert len(digests) == 1


SPANS = st.lists(
    st.tuples(st.integers(0, 40_000), st.integers(1, 9_000)), max_size=6, unique_by=lambda s: s[0]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SPANS, st.integers(0, 100_000), st.sampled_from([0, 1 << 33]))
def test_sparse_files_keep_their_holes(drawn: list[tuple[int, int]], end: int, gap: int) -> None:
    spans: list[tuple[int, int]] = []
    for offset, length in sorted(drawn):
        if spans and offset < sum(spans[-1]):
            continue
        spans.append((offset + gap, length))
    size = max(end, *(sum(span) for span in spans), 0)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "image")
        apply_image(target, [sparse_archive(spans, size)])
        assert fsck(target) == ""
        assert target.stat().st_blocks * 512 < 2 << 20
        with mounted(target) as shown, (shown / "sparse").open("rb") as file:
            assert os.fstat(file.fileno()).st_size == size
            at = 0
            for number, (offset, length) in enumerate(spans):
                hole = min(offset - at, 1 << 16)
                assert os.pread(file.fileno(), hole, offset - hole) == bytes(hole)
                assert os.pread(file.fileno(), length, offset) == bytes([65 + number]) * length
                at = offset + length


def sparse_archive(spans: list[tuple[int, int]], size: int) -> bytes:
    records = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(size)}
    records["GNU.sparse.map"] = ",".join(str(number) for span in spans for number in span)
    data = b"".join(bytes([65 + number]) * length for number, (_, length) in enumerate(spans))
    return t.archive(t.file("sparse", data, pax=records))
