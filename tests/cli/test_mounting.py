"""`mount` and `umount`, with real mounts of what the daemon says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cri_imaged import mounting
from cri_imaged.ports import Mount
from cri_imaged.rpc.node.v1 import node_pb2
from tests.cli.peer import IMAGE_ID, Peer
from tests.support.require import require_real


def a_view_of(mounts: list[node_pb2.Mount]) -> Any:
    async def create(request: Any) -> Any:
        return node_pb2.CreateViewResponse(key=request.key, image_id=IMAGE_ID, mounts=mounts)

    return create


def mounted(target: Path) -> bool:
    return any(info.mount_point == str(target) for info in mounting.mounts())


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
async def test_mount_and_umount(peer: Peer, tmp_path: Path, kind: str) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    # A bind mount within one file system, as of a native snapshot, is easily missed.
    source, target = tmp_path / "source", tmp_path / "root fs"
    source.mkdir()
    target.mkdir()
    options = {"tmpfs": ["size=64k"], "bind": ["rbind", "ro"]}[kind]
    key = f"mount:{target}"
    peer.answers["CreateView"] = a_view_of(
        [node_pb2.Mount(type=kind, source=str(source), options=options)]
    )
    peer.answers["ListViews"] = node_pb2.ListViewsResponse()
    peer.answers["ReleaseView"] = node_pb2.ReleaseViewResponse()
    try:
        ran = await peer.run("mount", "--rw", "a", str(target))
        assert (ran.code, ran.err) == (0, "")
        assert mounted(target)
        created = peer.asked(node_pb2.CreateViewRequest)
        assert created == [node_pb2.CreateViewRequest(image="a", key=key, writable=True)]

        view = node_pb2.View(key=key)
        peer.answers["ListViews"] = node_pb2.ListViewsResponse(views=[view])
        again = await peer.run("mount", "a", str(target))
        assert again.code == 1
        assert "mounted already" in again.err

        (tmp_path / "link").symlink_to(target)
        ran = await peer.run("umount", "-o", "json", str(tmp_path / "link"))
        assert ran.code == 0
        assert json.loads(ran.out) == {"key": key}
        assert peer.requests[-1] == node_pb2.ReleaseViewRequest(key=key)
    finally:
        left = mounted(target)
        if left:
            mounting.unmount(target, lazy=True)
    assert not left


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
@pytest.mark.parametrize(
    ("asked", "forbidden"),
    [((), {"nosuid", "nodev"}), (("--suid",), {"nodev"}), (("--suid", "--dev"), set())],
)
async def test_programs_and_devices_of_the_image_have_power_only_where_asked_for(
    peer: Peer, tmp_path: Path, kind: str, asked: tuple[str, ...], forbidden: set[str]
) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    source, target = tmp_path / "source", tmp_path / "rootfs"
    source.mkdir()
    target.mkdir()
    options = {"tmpfs": ["size=64k"], "bind": ["rbind", "rw"]}[kind]
    peer.answers["CreateView"] = a_view_of(
        [node_pb2.Mount(type=kind, source=str(source), options=options)]
    )
    peer.answers["ListViews"] = node_pb2.ListViewsResponse()
    try:
        ran = await peer.run("mount", "--rw", *asked, "a", str(target))
        assert (ran.code, ran.err) == (0, "")
        (info,) = [info for info in mounting.mounts() if info.mount_point == str(target)]
        assert {"nosuid", "nodev"} & set(info.options) == forbidden
    finally:
        if mounted(target):
            mounting.unmount(target, lazy=True)


async def test_what_is_in_use_is_not_torn_away(peer: Peer, tmp_path: Path) -> None:
    require_real(os.geteuid() == 0, "mounting needs root")
    target = tmp_path / "rootfs"
    target.mkdir()
    mounting.mount(Mount("tmpfs", "tmpfs", ()), target)
    peer.answers["ListViews"] = node_pb2.ListViewsResponse(
        views=[node_pb2.View(key=f"mount:{target}")]
    )
    peer.answers["ReleaseView"] = node_pb2.ReleaseViewResponse()
    try:
        user = os.open(target, os.O_DIRECTORY)
        try:
            ran = await peer.run("umount", str(target))
            assert ran.code == 1
            assert "--lazy" in ran.err
            assert not peer.asked(node_pb2.ReleaseViewRequest)
            assert (await peer.run("umount", "--lazy", str(target))).code == 0
        finally:
            os.close(user)
    finally:
        left = mounted(target)
        if left:
            mounting.unmount(target, lazy=True)
    assert not left


async def test_a_mount_that_the_kernel_refuses_gives_its_view_back(
    peer: Peer, tmp_path: Path
) -> None:
    peer.answers["CreateView"] = a_view_of([node_pb2.Mount(type="no-such-fs", source="x")])
    peer.answers["ReleaseView"] = node_pb2.ReleaseViewResponse()
    ran = await peer.run("mount", "a", str(tmp_path))
    assert ran.code in {1, 5}
    assert str(tmp_path) in ran.err
    assert "Traceback" not in ran.err
    assert len(peer.asked(node_pb2.ReleaseViewRequest)) == 1


async def test_a_view_without_a_mount(peer: Peer, tmp_path: Path) -> None:
    mount = node_pb2.Mount(type="bind", source="/data/7", options=["rbind", "ro"])
    peer.answers["CreateView"] = a_view_of([mount])
    ran = await peer.run("mount", "--no-mount", "a", str(tmp_path / "later"))
    assert ran.out == f"mount -t bind -o rbind,ro,nosuid,nodev /data/7 {tmp_path}/later\n"
    ran = await peer.run("mount", "--no-mount", "-o", "json", "a", str(tmp_path / "later"))
    assert json.loads(ran.out)["mounts"][0]["source"] == "/data/7"


async def test_directories_that_do_not_fit(peer: Peer, tmp_path: Path) -> None:
    ran = await peer.run("mount", "a", str(tmp_path / "none"))
    assert ran.code == 2
    assert "mkdir -p" in ran.err
    peer.answers["ListViews"] = node_pb2.ListViewsResponse()
    assert (await peer.run("umount", str(tmp_path))).code == 3
