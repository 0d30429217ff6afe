"""Real layers on real snapshots: what is set when the tree is complete, what whiteouts leave."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError
from cri_imaged.layers.apply import Result
from cri_imaged.layers.sinks.sink import LayerSink
from cri_imaged.oci.digest import Digest
from cri_imaged.ports import IMAGE, Applied, ImageTarget, Late, Skipped
from tests.layers.direct import apply_image, apply_into
from tests.layers.listing import kinds
from tests.snapshots.workbench import Bench, applied, shown
from tests.support import tarballs as t
from tests.support.require import require_real

ACL = bytes.fromhex(
    "02000000 01000700ffffffff 02000700e8030000 04000500ffffffff 10000700ffffffff 20000500ffffffff"
)
"""user::rwx user:1000:rwx group::r-x mask::rwx other::r-x"""
DEFAULT_ACL, ACCESS_ACL = "system.posix_acl_default", "system.posix_acl_access"
SHARED = {f"SCHILY.xattr.{DEFAULT_ACL}": ACL}
SECOND = 1_000_000_000


async def add(bench: Bench, archive: bytes, parent: Digest | None = None) -> Digest:
    """Apply a layer and commit it on top of `parent`."""
    chain_id = Digest.of(archive + (parent or "").encode())
    into = await bench.snapshotter.prepare(chain_id, parent, bench.lease)
    result: Result
    sink: LayerSink
    if isinstance(into, ImageTarget):
        result, sink = apply_image(into.directory / IMAGE, [archive])
    else:
        result, sink = apply_into(into.directory, archive)
    done = Applied(
        Digest(result.diff_id),
        result.size,
        result.entries,
        sink.held(),
        sink.skipped(),
        **result.sealable._asdict(),
    )
    await bench.commit(chain_id, chain_id, parent, done)
    return chain_id


@contextlib.asynccontextmanager
async def view(bench: Bench, chain_id: Digest, *, writable: bool = False) -> AsyncIterator[Path]:
    key = f"view of {chain_id} {writable}"
    with shown(await bench.snapshotter.view(key, chain_id, writable=writable)) as root:
        yield root
    await bench.snapshotter.remove(key)


def xattr(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return None


def settable(folder: Path, name: str, value: bytes) -> bool:
    """Whether this process may set such an xattr in the file system of `folder`."""
    probe = folder / "probe"
    probe.mkdir()
    try:
        os.setxattr(probe, name, value)
    except OSError:
        return False
    finally:
        probe.rmdir()
    return True


def need(bench: Bench, name: str, value: bytes) -> None:
    if not settable(bench.root, name, value):
        pytest.skip(f"{name} cannot be set here")


async def test_a_default_acl_is_kept_and_shows_in_nothing_else(bench: Bench) -> None:
    need(bench, DEFAULT_ACL, ACL)
    lower = t.archive(
        *(t.directory("d", mode=0o750, pax=SHARED), t.directory("d/e", mode=0o700)),
        *(t.file("d/x", b"x", mode=0o600), t.file("d/e/y", b"y", mode=0o644), t.file("f", b"f")),
    )
    upper = t.archive(
        *(t.file("d/new", b"n", mode=0o604), t.directory("d/sub", mode=0o711)),
        *(t.hardlink("d/link", "f", mode=0o640), t.whiteout("d/e/y"), t.file("d/e/z", b"z")),
    )
    base = await add(bench, lower)
    top = await add(bench, upper, base)
    modes = {"d": 0o750, "d/e": 0o700, "d/x": 0o600}
    more = {"d/new": 0o604, "d/sub": 0o711, "d/link": 0o640, "d/e/z": 0o644}
    for chain_id, expected in ((base, modes), (top, modes | more)):
        for writable in (False, True):
            if writable and os.geteuid() != 0:
                continue
            async with view(bench, chain_id, writable=writable) as root:
                assert xattr(root / "d", DEFAULT_ACL) == ACL
                for path, mode in expected.items():
                    assert stat.S_IMODE((root / path).stat().st_mode) == mode, path
                    assert xattr(root / path, ACCESS_ACL) is None, path
                    assert path == "d" or xattr(root / path, DEFAULT_ACL) is None, path
        info = await bench.snapshotter.info(chain_id)
        assert info is not None
        assert info.skipped.xattrs == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("security.ima", b"\3\2\4signature"),
        ("security.evm", b"\5\2\4signature"),
        ("security.other", b"x"),
        ("security.SMACK64", b"label"),
        ("trusted.own", b"x"),
    ],
)
async def test_what_only_root_sets(bench: Bench, name: str, value: bytes) -> None:
    pax = {f"SCHILY.xattr.{name}": value}
    layer = t.archive(
        *(t.file("tool", b"x", mode=0o4755, pax=pax), t.directory("d", mode=0o700, pax=pax)),
        *(t.symlink("s", "tool", pax=pax), t.hardlink("again", "tool", mode=0o4755)),
    )
    top = await add(bench, layer)
    info = await bench.snapshotter.info(top)
    assert info is not None
    async with view(bench, top) as root:
        found = [xattr(root / path, name) for path in ("tool", "d", "s", "again")]
        if os.geteuid() == 0:
            assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o4755
    if settable(bench.root, name, value):
        assert found[0] == found[1] == found[3] == value
        assert info.skipped.xattrs == (found[2] is None)
    else:
        assert found == [None] * 4
        assert info.skipped.xattrs == 3


async def test_a_hardlink_to_a_layer_below_has_its_own_attributes(bench: Bench) -> None:
    mine = {"uid": os.geteuid(), "gid": os.getegid()}
    pax = {"SCHILY.xattr.user.a": "b"}
    lower = t.archive(t.file("f", b"f", mode=0o400, mtime=1, **mine), t.symlink("s", "f", **mine))
    upper = t.archive(
        t.hardlink("d/one", "f", mode=0o4711, mtime=2, **mine),
        t.hardlink("d/two", "f", mode=0o4555, mtime=3, pax=pax, **mine),
        t.hardlink("link", "s", mtime=4, **mine),
    )
    top = await add(bench, upper, await add(bench, lower))
    async with view(bench, top) as root:
        one, two, below = (os.lstat(root / name) for name in ("d/one", "d/two", "f"))
        assert one.st_ino == two.st_ino
        assert (stat.S_IMODE(two.st_mode), two.st_mtime_ns) == (0o4555, 3 * SECOND)
        assert (stat.S_IMODE(below.st_mode), below.st_mtime_ns) == (0o400, SECOND)
        assert os.lstat(root / "link").st_mtime_ns == 4 * SECOND
        assert (root / "d/one").read_bytes() == b"f"
        if settable(bench.root, "user.a", b"b"):
            assert xattr(root / "d/two", "user.a") == b"b"
        assert xattr(root / "f", "user.a") is None
    info = await bench.snapshotter.info(top)
    assert info is not None
    assert info.skipped == Skipped()


async def test_a_hardlink_to_a_layer_below_has_its_own_owner(bench: Bench) -> None:
    lower, upper = t.archive(t.file("f", b"f")), t.archive(t.hardlink("l", "f", uid=5, gid=6))
    top = await add(bench, upper, await add(bench, lower))
    info = await bench.snapshotter.info(top)
    assert info is not None
    async with view(bench, top) as root:
        status = (root / "l").stat()
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid, info.skipped.owners) == (5, 6, 0)
    else:
        assert info.skipped.owners == 1


@pytest.mark.parametrize("name", ["trusted.overlay.opaque", "user.overlay.opaque"])
async def test_a_worker_that_was_taken_over_cannot_speak_to_overlayfs(
    bench: Bench, name: str
) -> None:
    directory = await bench.prepare("key")
    (directory / "d").mkdir()
    done = applied(late=(Late(b"d", ((name.encode(), b"y"),)),))
    chain_id = Digest.of(b"chain")
    await bench.commit(chain_id, "key", None, done)
    async with view(bench, chain_id) as layer:
        assert os.listxattr(layer / "d") == []
    info = await bench.snapshotter.info(chain_id)
    assert info is not None
    assert info.skipped.xattrs == 1


@pytest.mark.parametrize("path", [b"", b"../x", b"/x", b"d/../../x", b"d//x"])
async def test_late_paths_stay_in_the_layer(bench: Bench, path: bytes) -> None:
    await bench.prepare("key")
    with pytest.raises(CorruptContentError):
        await bench.commit(Digest.of(b"c"), "key", None, applied(late=(Late(path),)))


async def test_late_attributes_follow_no_link(bench: Bench) -> None:
    victim = bench.root / "victim"
    victim.write_bytes(b"v")
    directory = await bench.prepare("key")
    (directory / "s").symlink_to(victim)
    (directory / "up").symlink_to(bench.root)
    late = (Late(b"s", ((b"user.a", b"b"),)), Late(b"up/victim", ((b"user.a", b"b"),)))
    await bench.commit(Digest.of(b"c"), "key", None, applied(late=late))
    assert os.listxattr(victim) == []


LOWER = t.archive(
    *(t.directory("dir", mode=0o710), t.file("dir/file"), t.file("dir/other")),
    *(t.directory("dir/sub"), t.file("dir/sub/x"), t.file("keep"), t.symlink("lnk", "dir")),
)


ALL = "dir dir/file dir/other dir/sub dir/sub/x keep lnk"


@pytest.mark.parametrize(
    ("entries", "left"),
    [
        ([t.whiteout("dir"), t.whiteout("dir/file")], "keep lnk"),
        ([t.whiteout("dir/file"), t.whiteout("dir")], "keep lnk"),
        ([t.whiteout("dir/sub/x"), t.opaque("dir/sub"), t.whiteout("dir")], "keep lnk"),
        ([t.opaque("dir"), t.whiteout("dir")], "keep lnk"),
        ([t.whiteout("dir"), t.opaque("dir")], "keep lnk"),
        ([t.whiteout("dir"), t.opaque("dir/a/b"), t.whiteout("dir/a/x")], "keep lnk"),
        ([t.whiteout("dir/file")], "dir dir/other dir/sub dir/sub/x keep lnk"),
        ([t.whiteout("dir/sub/x")], "dir dir/file dir/other dir/sub keep lnk"),
        ([t.whiteout("dir/sub")], "dir dir/file dir/other keep lnk"),
        ([t.opaque("dir/sub")], "dir dir/file dir/other dir/sub keep lnk"),
        ([t.opaque("dir")], "dir keep lnk"),
        (
            [t.whiteout("none/x"), t.whiteout("a/b")],
            ALL,
        ),
        ([t.whiteout("dir"), t.whiteout("dir/file"), t.file("dir/new")], "dir dir/new keep lnk"),
        ([t.whiteout("dir/file"), t.file("dir"), t.whiteout("dir/sub")], "dir keep lnk"),
        (
            [t.whiteout("keep/x"), t.whiteout("lnk/file")],
            ALL,
        ),
    ],
)
async def test_whiteouts_make_nothing(bench: Bench, entries: list[bytes], left: str) -> None:
    top = await add(bench, t.archive(*entries), await add(bench, LOWER))
    async with view(bench, top) as root:
        assert " ".join(sorted(kinds(root))) == left
        assert (root / "lnk").is_symlink()
        if (root / "dir/other").exists():
            assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o710


async def test_devices_that_cannot_be_made_are_counted(bench: Bench) -> None:
    require_real(os.geteuid() == 0, "others skip devices before the seal")
    layer = t.archive(t.device("null", 1, 3), t.hardlink("again", "null", mode=0o600, mtime=5))
    top = await add(bench, layer)
    info = await bench.snapshotter.info(top)
    assert info is not None
    async with view(bench, top) as root:
        made = (root / "null").exists()
        if made:
            status = (root / "null").stat()
            assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o600, 5 * SECOND)
    assert info.skipped.devices == (0 if made else 2)


async def test_devices_that_cannot_be_copied_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hardlink to a device below is a copy of it, which a device cgroup forbids to root, too."""
    require_real(os.geteuid() == 0, "others skip devices before the seal")
    low = await add(bench, t.archive(t.device("null", 1, 3)))
    real = os.mknod

    def forbidden(path: bytes, mode: int, device: int, **fields: int) -> None:
        if device:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        real(path, mode, device, **fields)

    monkeypatch.setattr(os, "mknod", forbidden)
    top = await add(bench, t.archive(t.hardlink("again", "null")), low)
    info = await bench.snapshotter.info(top)
    assert info is not None
    made = bench.snapshotter.name == "erofs"  # an entry of an image, which no cgroup forbids
    assert info.skipped.devices == (0 if made else 1)
