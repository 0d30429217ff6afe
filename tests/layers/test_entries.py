"""What is on disk after harmless layers: attributes, replacement, counts; in both settings."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from cri_imaged.errors import CorruptContentError
from cri_imaged.limits import Limits
from cri_imaged.ports import Attributes, Late
from tests.layers.applying import SETTINGS, Outcome, apply_one
from tests.layers.direct import apply_into
from tests.layers.listing import kinds, listing
from tests.support import tarballs as t
from tests.support.require import require_real

SECOND = 1_000_000_000
FILE_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # net_bind_service+ep

LAYER = t.archive(
    t.directory(".", mode=0o750, uid=3, gid=4, mtime=99),
    t.directory("d", mode=0o3775, uid=1000, gid=2000, mtime=1),
    t.file("d/suid", b"#!", mode=0o6755, uid=1000, gid=2000, mtime=-86400),
    t.file("d/far", mtime=1 << 34),
    t.file("d/fine", pax={"mtime": "1600000000.123456789"}),
    t.file("d/none", b"secret", mode=0),
    t.symlink("d/link", "/else/where", uid=5, gid=6, mtime=7),
    t.fifo("d/fifo", mode=0o622, uid=5, mtime=8),
    t.hardlink("d/again", "d/suid", mode=0o6755, uid=1000, gid=2000, mtime=-86400),
    t.device("null", 1, 3),
    t.device("disk", 8, 1, block=True),
    t.directory("closed", mode=0, mtime=2),
    t.file("closed/x", b"x"),
    t.directory("read-only", mode=0o555, mtime=3),
    t.file("read-only/x", b"x", mode=0o444),
    t.file("implicit/x", b"x"),
)


@pytest.fixture(scope="module", params=SETTINGS)
def applied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    setting = str(request.param)
    outcome, root = apply_one(setting, LAYER, tmp_path_factory.mktemp("attributes"))
    yield setting, outcome.accept(), root
    subprocess.run(["rm", "-rf", root], check=os.geteuid() == 0)


def test_modes_and_times(applied: tuple[str, Outcome, Path]) -> None:
    _, outcome, root = applied
    if os.geteuid() != 0:
        (root / "closed").chmod(0o700)
    found = listing(root)
    modes = {path: node.mode for path, node in found.items() if node.kind != "symlink"}
    assert modes.items() >= {
        ("", 0o755),
        ("d", 0o3775),
        ("d/suid", 0o6755),
        ("d/none", 0),
        ("d/fifo", 0o622),
        ("read-only", 0o555),
        ("read-only/x", 0o444),
        ("implicit", 0o755),
    }
    times = {path: node.mtime_ns for path, node in found.items()}
    assert times.items() >= {
        ("", 99 * SECOND),
        ("d", SECOND),
        ("d/suid", -86400 * SECOND),
        ("d/fine", 1600000000123456789),
        ("d/link", 7 * SECOND),
        ("d/fifo", 8 * SECOND),
        ("closed", 2 * SECOND),
        ("read-only", 3 * SECOND),
    }
    assert (times["d/far"] == (1 << 34) * SECOND) == (outcome.skipped[3] == 0)
    assert found["d/link"].content == b"/else/where"
    assert found["d/again"].inode == found["d/suid"].inode
    assert found["d/suid"].links == 2
    assert found["closed/x"].content == b"x"
    if os.geteuid() == 0:
        assert found["closed"].mode == 0


def test_owners_and_devices(applied: tuple[str, Outcome, Path]) -> None:
    setting, outcome, root = applied
    found = listing(root)
    if setting == "root":
        assert (found[""].uid, found[""].gid) == (0, 0)
        assert (found["d"].uid, found["d"].gid) == (1000, 2000)
        assert (found["d/suid"].uid, found["d/suid"].gid) == (1000, 2000)
        assert (found["d/link"].uid, found["d/link"].gid) == (5, 6)
        assert outcome.devices == ((b"null", 0o20644, 1, 3), (b"disk", 0o60644, 8, 1))
        assert outcome.skipped[:3] == (0, 0, 0)
    else:
        assert len({(node.uid, node.gid) for node in found.values()}) == 1
        assert outcome.devices == ()
        owned_entries = 13  # all but two devices and the root
        assert outcome.skipped[:2] == (owned_entries, 2)
    assert found.keys().isdisjoint({"null", "disk"})  # they are made at the seal


def test_devices_are_left_to_the_seal_with_all_their_names(tmp_path: Path) -> None:
    layer = t.archive(
        *(t.device("d/x", 1, 3), t.hardlink("y", "./d/x"), t.hardlink("d/z", "y")),
        *(t.device("gone", 1, 5), t.file("gone"), t.device("e/gone", 1, 5), t.file("e")),
        *(t.device("again", 1, 3), t.device("again", 1, 7)),
    )
    result, _ = apply_into(tmp_path, layer)
    found = [(device.names, device.mode, device.minor) for device in result.sealable.devices]
    assert found == [((b"d/x", b"y", b"d/z"), 0o20644, 3), ((b"again",), 0o20644, 7)]
    assert kinds(tmp_path) == {"d": "directory", "e": "file", "gone": "file"}
    assert result.sealable.links == ()


def test_usage(applied: tuple[str, Outcome, Path]) -> None:
    _, outcome, root = applied
    found = listing(root)
    assert outcome.usage[1] == len({node.inode for node in found.values()})
    blocks = sum(4096 for node in found.values() if node.kind == "directory")
    blocks += sum(
        -(-len(node.content) // 4096) * 4096
        for node in {node.inode: node for node in found.values()}.values()
        if node.kind == "file"
    )
    assert outcome.usage[0] == blocks


@pytest.mark.parametrize("setting", SETTINGS)
def test_xattrs(setting: str, tmp_path: Path) -> None:
    attributes = {
        "SCHILY.xattr.user.text": "value",
        "SCHILY.xattr.user.binary": b"\0\n=\xff",
        "SCHILY.xattr.security.capability": FILE_CAPABILITY,
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.whiteout": "y",
        "SCHILY.xattr.user.too-large": "x" * 70_000,
    }
    layer = t.archive(
        t.directory("d", pax=attributes, mode=0o555),
        t.file("d/x", b"x", pax=attributes, mode=0o4555),
        t.symlink("d/s", "x", pax={"SCHILY.xattr.user.a": "b"}),
    )
    outcome, root = apply_one(setting, layer, tmp_path)
    outcome.accept()
    user = {"user.text": b"value", "user.binary": b"\0\n=\xff"}
    found = listing(root)
    if not os.listxattr(root / "d/x"):
        pytest.skip("the temporary directory's file system has no extended attributes")
    capability = {"security.capability": FILE_CAPABILITY} if setting == "root" else {}
    assert dict(found["d/x"].xattrs) == user | capability
    assert dict(found["d"].xattrs) | capability == user | capability
    assert found["d/x"].mode == 0o4555
    assert found["d"].mode == 0o555
    never = 3 + 3 + 1  # two names of overlayfs and the large one on each, and the symlink's
    assert outcome.skipped[2] in range(never, never + 3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_access_list_does_not_decide_a_mode(setting: str, tmp_path: Path) -> None:
    nothing = bytes.fromhex("02000000 01000000ffffffff 04000000ffffffff 20000000ffffffff")
    access = {"SCHILY.xattr.system.posix_acl_access": nothing}
    layer = t.archive(t.directory("d", mode=0o700, pax=access), t.file("d/x", b"x", pax=access))
    outcome, root = apply_one(setting, layer, tmp_path)
    outcome.accept()
    found = listing(root)
    assert (found["d"].mode, found["d/x"].mode) == (0o700, 0o644)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_last_of_a_name_wins(setting: str, tmp_path: Path) -> None:
    layer = t.archive(
        *(t.file("f", b"first"), t.file("f", b"last", mode=0o600)),
        *(t.file("f-d", b"x"), t.directory("f-d"), t.file("f-d/x", b"x")),
        *(t.directory("d-f", mode=0), t.file("d-f/e/x"), t.file("d-f", b"x")),
        *(t.directory("d-s"), t.symlink("d-s", "f-d"), t.file("d-s/y", b"y")),
        *(t.symlink("s-d", "f-d"), t.directory("s-d"), t.file("s-d/z", b"z")),
        *(t.symlink("s-f", "f"), t.file("s-f", b"s-f")),
        *(t.file("h-f", b"1"), t.hardlink("h", "h-f"), t.file("h-f", b"2")),
        *(t.directory("m", mode=0o700), t.file("m/x", b"x"), t.directory("m", mode=0o711)),
        *(t.file("p", b"x"), t.fifo("p")),
        *(t.file("file", b"x"), t.file("file/x", b"parent made")),
    )
    outcome, root = apply_one(setting, layer, tmp_path)
    assert outcome.accept().implicit == (b"", b"file")
    found = listing(root)
    content = {path: node.content for path, node in found.items() if node.kind != "directory"}
    assert content == {
        "f": b"last",
        "f-d/x": b"x",
        "f-d/y": b"y",
        "d-f": b"x",
        "d-s": b"f-d",
        "s-d/z": b"z",
        "s-f": b"s-f",
        "h-f": b"2",
        "h": b"1",
        "m/x": b"x",
        "p": b"",
        "file/x": b"parent made",
    }
    assert (found["f"].mode, found["m"].mode, found["p"].kind) == (0o600, 0o711, "fifo")
    assert outcome.usage[1] == len({node.inode for node in found.values()})


def test_a_directory_listed_again_has_its_last_owner(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root gives directories away")
    layer = t.archive(
        *(t.directory(".", uid=1000, gid=7), t.directory("d", uid=1000, gid=7)),
        *(t.directory("."), t.directory("d")),
    )
    apply_into(tmp_path, layer)
    assert {(node.uid, node.gid) for node in listing(tmp_path).values()} == {(0, 0)}


def test_setgid_directories_pass_nothing_on(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root gives files to groups")
    many = [t.directory(f"other{n}") for n in range(300)]  # so that `d` is closed and opened again
    layer = t.archive(
        t.directory("d", mode=0o2755, gid=77, mtime=5),
        t.directory("d/e"),
        t.file("d/x"),
        *many,
        t.file("d/y"),
        t.directory("d/g"),
    )
    apply_into(tmp_path, layer)
    found = listing(tmp_path)
    assert {found[path].gid for path in ("d/e", "d/x", "d/y", "d/g")} == {0}
    assert {found[path].mode for path in ("d/e", "d/g")} == {0o755}
    assert (found["d"].mode, found["d"].gid, found["d"].mtime_ns) == (0o2755, 77, 5 * SECOND)


def test_directory_times_hold_whatever_the_order(tmp_path: Path) -> None:
    folders = [f"a{n}" for n in range(200)]
    layer = t.archive(
        *(t.directory(name, mtime=n, mode=0o500) for n, name in enumerate(folders)),
        *(t.file(f"{name}/x") for name in folders),
        *(t.directory(f"{name}/sub", mtime=1000) for name in reversed(folders)),
        *(t.file(f"{name}/sub/x") for name in folders),
        *(t.hardlink(f"{name}/h", f"a{n * 7 % 200}/x") for n, name in enumerate(folders)),
    )
    apply_into(tmp_path, layer)
    found = listing(tmp_path)
    for n, name in enumerate(folders):
        assert found[name].mtime_ns == n * SECOND
        assert found[name].mode == 0o500
        assert found[f"{name}/sub"].mtime_ns == 1000 * SECOND
        assert found[f"{name}/h"].inode == found[f"a{n * 7 % 200}/x"].inode


def test_deep_trees_are_made_and_removed(tmp_path: Path) -> None:
    deep = "d/" * 2000
    with_file = t.archive(t.file(deep + "x", b"x"), t.directory(deep, mtime=4))
    _, sink = apply_into(tmp_path, with_file)
    assert sink.held().inodes == 2002
    replaced = t.archive(t.file(deep + "x"), t.file("d", b"gone"))
    sink = apply_into(tmp_path, replaced)[1]
    assert kinds(tmp_path) == {"d": "file"}


def test_parents_by_symlinks(tmp_path: Path) -> None:
    layer = t.archive(
        t.directory("usr"),
        t.directory("usr/bin"),
        t.symlink("bin", "usr/bin"),
        t.file("bin/a", b"a"),
        t.symlink("usr/up", "../.."),
        t.file("usr/up/usr/b", b"b"),
        t.symlink("new", "made/../made/here"),
        t.file("new/c", b"c"),
        t.symlink("to-file", "usr/b"),
        t.file("to-file/d", b"d"),
        t.hardlink("hard", "bin/a"),
        t.hardlink("soft", "bin"),
    )
    sealable = apply_into(tmp_path, layer)[0].sealable
    found = listing(tmp_path)
    assert {path for path, node in found.items() if node.kind == "file"} == {
        "usr/bin/a",
        "usr/b/d",
        "made/here/c",
        "hard",
    }
    assert found["soft"].kind == "symlink"
    assert found["soft"].inode == found["bin"].inode
    assert sealable.implicit == (b"", b"made", b"made/here", b"usr/b")


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "hardlink"])
def test_a_link_on_the_way_to_itself_gives_way(kind: str, tmp_path: Path) -> None:
    name = "l/l"
    make = {
        "file": t.file(name),
        "directory": t.directory(name),
        "symlink": t.symlink(name, "d"),
        "hardlink": t.hardlink(name, "f"),
    }
    layer = t.archive(
        *(t.directory("d"), t.file("f"), t.symlink("l", ".")),
        *(t.file("l/before"), make[kind], t.file("l/after")),
    )
    apply_into(tmp_path, layer)
    where = "d" if kind == "symlink" else "l"
    files = {path for path, what in kinds(tmp_path).items() if what == "file"}
    assert files == {"f", "before", f"{where}/after"}


def test_overlayfs_whiteout_devices_are_skipped(tmp_path: Path) -> None:
    _, sink = apply_into(tmp_path, t.archive(t.file("x"), t.device("x", 0, 0)))
    assert kinds(tmp_path) == {}
    assert sink.skipped().devices == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_hardlinks_to_a_skipped_device_are_skipped(setting: str, tmp_path: Path) -> None:
    device = t.device("d/x", *((0, 0) if setting == "root" else (1, 3)))
    layer = t.archive(device, t.file("y"), t.hardlink("y", "d/x"), t.hardlink("d/z", "./y"))
    outcome, root = apply_one(setting, layer, tmp_path)
    assert outcome.accept().links == ()
    assert kinds(root) == {"d": "directory"}
    assert outcome.skipped[1] == 3


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_hardlinks_own_attributes_are_the_files(setting: str, tmp_path: Path) -> None:
    mine = {"uid": os.geteuid(), "gid": os.getegid()} if setting == "root" else {}
    given = {"SCHILY.xattr.user.b": "new", "SCHILY.xattr.user.c": "third"}
    layer = t.archive(
        t.file("a", b"x", mode=0o400, uid=5, mtime=1, pax={"SCHILY.xattr.user.b": "old"}),
        t.hardlink("b", "a", mode=0o444, uid=6, gid=7, mtime=2),
        t.hardlink("c", "b", mode=0o4751, uid=8, gid=9, mtime=-3, pax=given),
        t.symlink("s", "a", mtime=4),
        t.hardlink("s2", "s", mode=0o600, uid=10, mtime=5, pax=given),
        t.fifo("p", mode=0o600),
        t.hardlink("p2", "p", mode=0o2622, mtime=6, **mine),
        t.file("none", mode=0, mtime=7),
        t.hardlink("none2", "none", mode=0, mtime=8, pax=given),
    )
    outcome, root = apply_one(setting, layer, tmp_path)
    outcome.accept()
    found = listing(root)
    for name in ("a", "b", "c"):
        assert (found[name].mode, found[name].mtime_ns) == (0o4751, -3 * SECOND)
        assert found[name].inode == found["a"].inode
    assert dict(found["a"].xattrs).get("user.b", b"new") == b"new"
    assert (found["s"].mtime_ns, found["s"].kind) == (5 * SECOND, "symlink")
    assert (found["p"].mode, found["p"].mtime_ns) == (0o2622, 6 * SECOND)
    assert found["none"].mtime_ns == 8 * SECOND
    assert (root / "none").stat().st_mode & 0o7777 == 0
    if setting == "root":
        assert (found["a"].uid, found["a"].gid) == (8, 9)
        assert found["s"].uid == 10
        assert (found["p"].uid, found["p"].gid) == (0, 0)


def test_a_hardlink_back_to_our_own_user(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root gives files away")
    layer = t.archive(t.file("a", uid=5, gid=6, mode=0o4755), t.hardlink("b", "a", mode=0o4755))
    apply_into(tmp_path, layer)
    found = listing(tmp_path)["a"]
    assert (found.uid, found.gid, found.mode) == (0, 0, 0o4755)


def test_a_hardlink_without_xattrs_keeps_the_files(tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "only root sets capabilities")
    capability = {"SCHILY.xattr.security.capability": FILE_CAPABILITY}
    layer = t.archive(t.file("a", pax=capability), t.hardlink("b", "a"))
    _, sink = apply_into(tmp_path, layer)
    if sink.skipped().xattrs:
        pytest.skip("the temporary directory's file system has no extended attributes")
    assert dict(listing(tmp_path)["b"].xattrs) == {"security.capability": FILE_CAPABILITY}


def test_attributes_of_a_hardlink_to_a_layer_below_are_for_the_seal(tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.trusted.overlay.redirect": "x"}
    layer = t.archive(
        t.hardlink("a", "low", mode=0o4640, uid=1, gid=2, pax=pax | {"mtime": "-1.25"}),
        t.hardlink("b", "a", mtime=9),
        t.hardlink("replaced", "low"),
        t.file("replaced"),
        t.hardlink("d/x", "low"),
        t.file("d"),
    )
    result, sink = apply_into(tmp_path, layer)
    assert result.sealable.links == ((b"a", b"low"), (b"b", b"low"))
    assert result.sealable.late == (
        Late(b"a", ((b"user.a", b"b"),), Attributes(1, 2, 0o4640, -2, 750_000_000)),
        Late(b"b", (), Attributes(0, 0, 0o644, 9, 0)),
    )
    assert sink.skipped().xattrs == 1


ACL = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000500ffffffff")
LATE = {
    "SCHILY.xattr.system.posix_acl_default": ACL,
    "SCHILY.xattr.security.ima": b"\3\2signature",
    "SCHILY.xattr.security.evm": b"\5evm",
    "SCHILY.xattr.trusted.own": b"x",
}


def test_what_is_set_only_when_the_tree_is_complete(tmp_path: Path) -> None:
    layer = t.archive(
        t.directory("d", pax=LATE | {"SCHILY.xattr.user.a": "b"}),
        t.directory("d/e", mode=0o700),
        t.file("d/x", b"x", pax={"SCHILY.xattr.security.ima": b"old"}),
        t.file("d/x", b"x", pax={"SCHILY.xattr.security.ima": b"new"}),
        t.symlink("s", "d", pax={"SCHILY.xattr.security.ima": b"1"}),
        t.hardlink("h", "d/x", pax={"SCHILY.xattr.security.evm": b"2"}),
        t.file("gone", pax=LATE),
        t.directory("gone"),
        t.file("g/h/x", pax=LATE),
        t.file("g", pax={"SCHILY.xattr.user.a": "b"}),
    )
    sealable = apply_into(tmp_path, layer)[0].sealable
    found = {late.path: dict(late.xattrs) for late in sealable.late}
    assert found == {
        b"d": {name.removeprefix("SCHILY.xattr.").encode(): value for name, value in LATE.items()},
        b"d/x": {b"security.ima": b"new"},
        b"s": {b"security.ima": b"1"},
        b"h": {b"security.evm": b"2"},
    }
    assert all(late.attributes is None for late in sealable.late)
    assert listing(tmp_path)["d/e"].mode == 0o700
    assert not any(name.startswith("system.") for name, _ in listing(tmp_path)["d/e"].xattrs)


def test_late_attributes_beyond_their_limit_are_counted(tmp_path: Path) -> None:
    signed = [
        t.file(str(number), pax={"SCHILY.xattr.security.ima": b"x" * 500}) for number in range(10)
    ]
    layer = t.archive(*signed, *(t.whiteout(str(n) * 200) for n in range(5)))
    result, sink = apply_into(tmp_path, layer, limits=Limits(seal_bytes=4000))
    kept = len(result.sealable.late)
    assert 0 < kept < 6
    assert sink.skipped().xattrs == 10 - kept


@pytest.mark.parametrize("setting", SETTINGS)
def test_hardlinks_of_docker_on_aufs(setting: str, tmp_path: Path) -> None:
    """Their data is in `.wh..wh.plnk`, which is no part of the tree."""
    layer = t.archive(
        *(t.directory(".wh..wh.plnk", mode=0o700), t.directory(".wh..wh.orph")),
        *(t.file(".wh..wh.plnk/89.711", b"content"), t.file(".wh..wh.plnk/90.1", bytes(9000))),
        *(t.file("./.wh..wh.plnk/91.1", b"last"), t.file(".wh..wh.aufs")),
        *(t.hardlink("usr/bin/tool", ".wh..wh.plnk/89.711", mode=0o755),),
        *(t.hardlink("bin/tool", "/.wh..wh.plnk/89.711", mode=0o750),),
        *(t.hardlink("last", "./.wh..wh.plnk/91.1"), t.hardlink("again", "last")),
        *(t.file(".wh..wh.plnk/d/x"), t.symlink(".wh..wh.plnk/s", "x"), t.file(".wh..wh.orph/x")),
        t.symlink("peek", ".wh..wh.plnk"),
    )
    outcome, root = apply_one(setting, layer, tmp_path)
    outcome.accept()
    found = listing(root)
    assert set(found) == {"", "usr", "usr/bin", "usr/bin/tool", "bin", "bin/tool", "last"} | {
        "again",
        "peek",
    }
    assert found["usr/bin/tool"].content == b"content"
    assert found["usr/bin/tool"].inode == found["bin/tool"].inode
    assert (found["bin/tool"].mode, found["bin/tool"].links) == (0o750, 2)
    assert found["again"].content == b"last"
    assert outcome.usage == (4096 * (4 + 2), 4 + 3)


def test_a_stranger_cannot_reach_what_was_put_aside(tmp_path: Path) -> None:
    layer = t.archive(
        *(t.file(".wh..wh.plnk/1", b"aside"), t.symlink("s", ".wh..wh.plnk")),
        *(t.hardlink("through", "s/1"), t.hardlink("deeper", ".wh..wh.plnk/1/2")),
    )
    links = apply_into(tmp_path, layer)[0].sealable.links
    assert links == ((b"through", b".wh..wh.plnk/1"), (b"deeper", b".wh..wh.plnk/1/2"))
    assert kinds(tmp_path) == {"s": "symlink"}
    with pytest.raises(CorruptContentError, match="named like a whiteout"):
        apply_into(tmp_path, t.archive(t.symlink("t", ".wh..wh.plnk"), t.file("t/x")))


@pytest.mark.parametrize("name", [".", "./", "/", "d/..", ""])
def test_the_root_stays_0755_and_roots(name: str, tmp_path: Path) -> None:
    pax = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.system.posix_acl_access": ACL}
    apply_into(tmp_path, t.archive(t.directory(name, mode=0o1700, uid=5, gid=6, mtime=7, pax=pax)))
    found = listing(tmp_path)[""]
    assert (found.mode, found.uid, found.gid) == (0o755, os.geteuid(), os.getegid())
    assert (found.mtime_ns, found.xattrs) == (7 * SECOND, ())


def test_as_gnu_tar_extracts(tmp_path: Path) -> None:
    """A real tree, packed and extracted by GNU tar, and extracted by us."""
    require_real(os.geteuid() == 0, "only root keeps owners")
    source = Path(os.__file__).parent
    packed, theirs, ours = tmp_path / "a.tar", tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    names = ["asyncio", "email", "encodings", "json", "xml"]
    subprocess.run(["tar", "-cf", packed, "--format=pax", "-C", source, *names], check=True)
    subprocess.run(["tar", "-xpf", packed, "-C", theirs], check=True)
    apply_into(ours, packed.read_bytes())

    def comparable(root: Path) -> dict[str, object]:
        found = listing(root)
        del found[""]
        return {
            path: (node.kind, node.mode, node.uid, node.gid, node.mtime_ns, node.content)
            for path, node in found.items()
        }

    assert comparable(ours) == comparable(theirs)
    assert stat.S_ISDIR((ours / "json").stat().st_mode)
