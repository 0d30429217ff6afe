"""Which views are mounted, from mountinfo alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri_imaged import mounting
from cri_imaged.ports import Mount, View
from cri_imaged.snapshots.stale import stale_views
from tests.snapshots.model import Layer, Node
from tests.snapshots.workbench import Bench
from tests.support.require import require_real

ROOT = "36 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
VAR = r"37 36 8:1 /disks/var /srv/my\040var rw - xfs /dev/sda1 rw"


def view(key: str, mount: Mount) -> View:
    return View(key, None, False, 0.0, (mount,))


def overlay(*options: str) -> Mount:
    return Mount("overlay", "overlay", options)


def bind(source: str) -> Mount:
    return Mount("bind", source, ("bind", "ro"))


@pytest.mark.parametrize(
    ("line", "mount", "stale"),
    [
        ("", overlay("lowerdir=/r/2/fs:/r/1/fs", "ro"), True),
        ("ro,lowerdir=/r/2/fs:/r/1/fs", overlay("lowerdir=/r/2/fs:/r/1/fs", "ro"), False),
        ("ro,lowerdir+=/r/2/fs,lowerdir+=/r/1/fs", overlay("lowerdir=/r/2/fs:/r/1/fs"), False),
        ("ro,lowerdir=2/fs:1/fs", overlay("lowerdir=/r/2/fs:/r/1/fs"), False),
        ("ro,lowerdir=2/fs:1/fs", overlay("lowerdir=/r/12/fs:/r/1/fs"), True),
        ("ro,lowerdir=/r/3/fs:/r/2/fs", overlay("lowerdir=/r/2/fs:/r/1/fs"), True),
        (
            "rw,lowerdir=/r/2/fs,upperdir=/r/v1/fs,workdir=/r/v1/work",
            overlay("lowerdir=/r/2/fs", "upperdir=/r/v1/fs", "workdir=/r/v1/work"),
            False,
        ),
        (
            "rw,lowerdir=/r/2/fs,upperdir=/r/v1/fs,workdir=/r/v1/work",
            overlay("lowerdir=/r/2/fs", "upperdir=/r/v2/fs", "workdir=/r/v2/work"),
            True,
        ),
        (
            "rw,lowerdir=/r/2/fs,upperdir=/r/v1/fs,workdir=/r/v1/work",
            overlay("lowerdir=/r/2/fs", "ro"),
            True,
        ),
    ],
)
def test_overlay_views(line: str, mount: Mount, stale: bool) -> None:
    text = f"{ROOT}\n38 36 0:50 / /mnt rw - overlay overlay {line}\n" if line else ROOT
    found = stale_views(mounting.parse_mountinfo(text), [view("key", mount)])
    assert found == (["key"] if stale else [])


@pytest.mark.parametrize(
    ("line", "source", "stale"),
    [
        ("254:0 /var/lib/x/1/fs /mnt ro - ext4 /dev/vda rw", "/var/lib/x/1/fs", False),
        ("254:0 /var/lib/x/2/fs /mnt ro - ext4 /dev/vda rw", "/var/lib/x/1/fs", True),
        ("8:9 /var/lib/x/1/fs /mnt ro - ext4 /dev/vdb rw", "/var/lib/x/1/fs", True),
        ("8:1 /disks/var/1/fs /mnt ro - xfs /dev/sda1 rw", "/srv/my var/1/fs", False),
        ("8:1 /1/fs /mnt ro - xfs /dev/sda1 rw", "/srv/my var/1/fs", True),
    ],
)
def test_bind_views(line: str, source: str, stale: bool) -> None:
    mounted = mounting.parse_mountinfo(f"{ROOT}\n{VAR}\n40 36 {line}\n")
    assert stale_views(mounted, [view("key", bind(source))]) == (["key"] if stale else [])


@pytest.mark.parametrize("writable", [False, True])
async def test_a_mounted_view_is_not_stale(bench: Bench, tmp_path: Path, writable: bool) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    top = await bench.stack([Layer({b"a": Node("file")}), Layer({b"b": Node("file")})])
    (mount,) = await bench.snapshotter.view("mounted", top, writable=writable)
    await bench.snapshotter.view("idle", top, writable=True)
    views = await bench.snapshotter.views()
    mounting.mount(mount, tmp_path)
    try:
        assert stale_views(mounting.mounts(), views) == ["idle"]
    finally:
        mounting.unmount(tmp_path)
    assert stale_views(mounting.mounts(), views) == ["mounted", "idle"]
