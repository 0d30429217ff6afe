"""The program at work: what it sends, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_imaged import __version__, mounting
from cri_imaged.ports import Mount
from cri_imaged.rpc.node.v1 import node_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2
from tests.cli.peer import PROGRAM, Peer, serving
from tests.support.require import require_real

IMAGE_ID = "sha256:" + "0123456789abcdef" * 4
IMAGE = api_pb2.Image(
    id=IMAGE_ID,
    repo_tags=["docker.io/library/a:1"],
    repo_digests=[f"docker.io/library/a@{IMAGE_ID}"],
    size=2048,
)


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with serving(tmp_path / "cri.sock") as started:
        yield started


# --- listing ----------------------------------------------------------------------------------


async def test_images(peer: Peer) -> None:
    peer.answers["StreamImages"] = [
        api_pb2.StreamImagesResponse(images=[IMAGE]),
        api_pb2.StreamImagesResponse(images=[api_pb2.Image(id="sha256:ff", size=1)]),
    ]
    ran = await peer.run("images", "a")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split() for line in ran.out.splitlines()] == [
        ["IMAGE", "TAG", "IMAGE", "ID", "SIZE", "PINNED"],
        ["docker.io/library/a", "1", "0123456789abc", "2.0", "KiB"],
        ["<none>", "<none>", "ff", "1", "B"],
    ]
    assert peer.requests[0].filter.image.image == "a"

    assert (await peer.run("images", "-q")).out.split() == [IMAGE_ID, "sha256:ff"]
    shown = json.loads((await peer.run("images", "-o", "json")).out)
    assert [image["id"] for image in shown["images"]] == [IMAGE_ID, "sha256:ff"]


async def test_inspect(peer: Peer) -> None:
    facts = {
        "chainID": "sha256:cc",
        "imageSpec": {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Cmd": ["sh", "-c"], "Labels": {"evil": "\x1b[31m"}},
        },
    }
    image = api_pb2.Image(id=IMAGE_ID, size=1, username="app\x1b]0;x\x07")
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(
        image=image, info={"info": json.dumps(facts), "note": "not json"}
    )
    ran = await peer.run("inspect", "a", "--runtime-handler", "kata")
    assert ran.code == 0
    lines = dict(line.split(":", 1) for line in ran.out.splitlines())
    assert {key: value.strip() for key, value in lines.items()} == {
        "id": IMAGE_ID,
        "size": "1 B compressed",
        "user": "app\\x1b]0;x\\x07",
        "pinned": "no",
        "chain id": "sha256:cc",
        "platform": "linux/amd64",
        "command": '["sh", "-c"]',
        "labels": '{"evil": "\\u001b[31m"}',
    }
    assert peer.requests[0].verbose
    assert peer.requests[0].image.runtime_handler == "kata"

    shown = json.loads((await peer.run("inspect", "-o", "json", "a")).out)
    assert shown["info"] == {"info": facts, "note": "not json"}
    assert shown["image"]["username"] == image.username


async def test_what_is_absent_is_not_found(peer: Peer) -> None:
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse()
    ran = await peer.run("inspect", "nothing")
    assert (ran.code, ran.out) == (3, "")
    assert "nothing" in ran.err.splitlines()[0]


async def test_rm_removes_what_is_there_and_says_what_is_not(peer: Peer) -> None:
    async def status(request: Any) -> Any:
        known = request.image.image == "a"
        return api_pb2.ImageStatusResponse(image=IMAGE if known else None)

    peer.answers["ImageStatus"] = status
    peer.answers["RemoveImage"] = api_pb2.RemoveImageResponse()
    ran = await peer.run("rm", "missing", "a")
    assert ran.code == 3
    assert ran.out == f"removed {IMAGE_ID}\n"
    assert "missing" in ran.err
    [request] = peer.asked(api_pb2.RemoveImageRequest)
    assert request.image.image == IMAGE_ID
    assert json.loads((await peer.run("rm", "a", "-o", "json")).out) == {"removed": [IMAGE_ID]}


async def test_fs_gc_and_views(peer: Peer) -> None:
    usage = api_pb2.FilesystemUsage(
        timestamp=1_767_225_600 * 10**9,
        fs_id=api_pb2.FilesystemIdentifier(mountpoint="/var/lib/x"),
        used_bytes=api_pb2.UInt64Value(value=3 << 20),
        inodes_used=api_pb2.UInt64Value(value=7),
    )
    peer.answers["ImageFsInfo"] = api_pb2.ImageFsInfoResponse(image_filesystems=[usage])
    ran = await peer.run("fs")
    assert ran.out.splitlines()[1].split() == [
        "/var/lib/x",
        "3.0",
        "MiB",
        "7",
        "2026-01-01T00:00:00Z",
    ]
    shown = json.loads((await peer.run("fs", "-o", "json")).out)
    assert shown["image_filesystems"][0]["used_bytes"] == 3 << 20

    peer.answers["CollectGarbage"] = node_pb2.CollectGarbageResponse(blobs=2, snapshots=1, bytes=9)
    assert (await peer.run("gc", "--resumable")).out == "freed 9 B: 2 blobs, 1 snapshot\n"
    assert peer.requests[-1].resumable
    shown = json.loads((await peer.run("gc", "-o", "json")).out)
    assert shown == {"blobs": 2, "snapshots": 1, "bytes": 9}
    assert not peer.requests[-1].resumable

    view = node_pb2.View(key="mount:/x", chain_id="sha256:cc", snapshotter="native", writable=True)
    peer.answers["ListViews"] = node_pb2.ListViewsResponse(views=[view])
    assert (await peer.run("views")).out.splitlines()[1].split()[:3] == ["mount:/x", "native", "rw"]
    assert json.loads((await peer.run("views", "-o", "json")).out)["views"][0]["writable"] is True


# --- pulling ----------------------------------------------------------------------------------

PULLING = node_pb2.Pull(
    id="7",
    reference="docker.io/library/a:1",
    phase=node_pb2.PULL_PHASE_FETCHING,
    layers=[
        node_pb2.Layer(
            digest="sha256:" + "ab" * 32, size=100, fetched=40, phase=node_pb2.LAYER_PHASE_FETCHING
        )
    ],
    bytes_total=100,
    bytes_fetched=40,
)


async def pull_once_watched(peer: Peer) -> None:
    """Let PullImage answer only when the progress was asked for and sent."""
    watched = asyncio.Event()

    async def watch(request: Any) -> Any:
        watched.set()
        return [node_pb2.WatchPullsResponse(pulls=[PULLING])]

    async def pull(request: Any) -> Any:
        await watched.wait()
        return api_pb2.PullImageResponse(image_ref=IMAGE_ID)

    peer.answers |= {"WatchPulls": watch, "PullImage": pull}


async def test_a_pull_prints_the_id_alone_on_standard_output(peer: Peer) -> None:
    await pull_once_watched(peer)
    ran = await peer.run("pull", "a", "--runtime-handler", "kata")
    assert (ran.code, ran.out) == (0, f"{IMAGE_ID}\n")
    [request] = peer.asked(api_pb2.PullImageRequest)
    assert request.image == api_pb2.ImageSpec(image="a", runtime_handler="kata")
    assert not request.HasField("auth")
    [watch] = peer.asked(node_pb2.WatchPullsRequest)
    assert watch.reference == "a"
    assert set(ran.err.splitlines()) <= {"docker.io/library/a:1: fetching, 1 layer, 100 B"}


async def test_a_quiet_pull_and_its_json(peer: Peer) -> None:
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    ran = await peer.run("pull", "-q", "-o", "json", "a")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {"image": "a", "id": IMAGE_ID}
    assert not peer.asked(node_pb2.WatchPullsRequest)


async def test_a_daemon_without_progress_still_pulls(peer: Peer) -> None:
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    ran = await peer.run("pull", "a")
    assert (ran.code, ran.out, ran.err) == (0, f"{IMAGE_ID}\n", "")


async def test_bars_on_a_terminal(peer: Peer) -> None:
    await pull_once_watched(peer)
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    shown = asyncio.Event()

    async def pull(request: Any) -> Any:
        await shown.wait()
        return api_pb2.PullImageResponse(image_ref=IMAGE_ID)

    peer.answers["PullImage"] = pull
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        "pull",
        "a",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={
            **os.environ,
            "CRI_IMAGED_ADDRESS": str(peer.socket),
            "TERM": "xterm",
            "COLUMNS": "120",
        },
    )
    os.close(theirs)
    text = await asyncio.to_thread(read_until, ours, b"abababababab")
    shown.set()
    out, _ = await process.communicate()
    os.close(ours)
    assert (process.returncode, out.decode()) == (0, f"{IMAGE_ID}\n")
    assert b"docker.io/library/a:1: fetching" in text


def read_until(descriptor: int, wanted: bytes) -> bytes:
    text = b""
    while wanted not in text:
        text += os.read(descriptor, 4096)
    return text


@pytest.mark.parametrize(
    ("creds", "stdin", "username", "password"),
    [
        ("u:p:q", "", "u", "p:q"),
        ("u:", "", "u", ""),
        ("u", "from stdin\n", "u", "from stdin"),
    ],
)
async def test_credentials(
    peer: Peer, creds: str, stdin: str, username: str, password: str
) -> None:
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    assert (await peer.run("pull", "-q", "--creds", creds, "a", stdin=stdin)).code == 0
    assert peer.requests[0].auth == api_pb2.AuthConfig(username=username, password=password)


async def test_a_password_that_is_missing(peer: Peer) -> None:
    ran = await peer.run("pull", "--creds", "u", "a")
    assert ran.code == 2
    assert "no password for u" in ran.err
    assert peer.requests == []


async def test_pulls_as_a_stream_of_json(peer: Peer) -> None:
    peer.answers["WatchPulls"] = [
        node_pb2.WatchPullsResponse(pulls=[PULLING]),
        node_pb2.WatchPullsResponse(),
    ]
    ran = await peer.run("pulls", "--until-idle", "-o", "json", "a")
    assert ran.code == 0
    states = [json.loads(line) for line in ran.out.splitlines()]
    assert [len(state["pulls"]) for state in states] == [1, 0]
    assert states[0]["pulls"][0]["bytes_fetched"] == 40
    assert peer.requests[0] == node_pb2.WatchPullsRequest(reference="a", until_idle=True)
    ran = await peer.run("pulls", "--until-idle")
    assert ran.err == "docker.io/library/a:1: fetching, 1 layer, 100 B\n"


async def test_ctrl_c_cancels_the_pull_at_the_daemon(peer: Peer) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def pull(request: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    peer.answers["PullImage"] = pull
    process = await peer.start("pull", "a")
    await begun.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "cri-imaged: interrupted"
    await cancelled.wait()


async def test_the_deadline(peer: Peer) -> None:
    async def pull(request: Any) -> Any:
        await asyncio.Event().wait()

    peer.answers["PullImage"] = pull
    assert (await peer.run("pull", "-q", "--timeout", "200ms", "a")).code == 7
    ran = await peer.run("pull", "--timeout", "soon", "a")
    assert ran.code == 2
    assert "'soon' is malformed" in ran.err


# --- mounting ---------------------------------------------------------------------------------


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
    assert ran.out == f"mount -t bind -o rbind,ro /data/7 {tmp_path}/later\n"
    ran = await peer.run("mount", "--no-mount", "-o", "json", "a", str(tmp_path / "later"))
    assert json.loads(ran.out)["mounts"][0]["source"] == "/data/7"


async def test_directories_that_do_not_fit(peer: Peer, tmp_path: Path) -> None:
    ran = await peer.run("mount", "a", str(tmp_path / "none"))
    assert ran.code == 2
    assert "mkdir -p" in ran.err
    peer.answers["ListViews"] = node_pb2.ListViewsResponse()
    assert (await peer.run("umount", str(tmp_path))).code == 3


# --- failing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((grpc.StatusCode.UNKNOWN, "RegistryUnavailable: r: no route"), 6, "r: no route"),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "no space left"), 1, "[image.limits]"),
        ((grpc.StatusCode.UNIMPLEMENTED, "what?"), 1, "another version"),
        ((grpc.StatusCode.UNAUTHENTICATED, "\x1b[2J"), 5, "--creds"),
    ],
)
async def test_errors_are_a_line_and_a_next_step(
    peer: Peer, answer: tuple[grpc.StatusCode, str], code: int, said: str
) -> None:
    peer.answers["PullImage"] = answer
    ran = await peer.run("pull", "-q", "a")
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    lines = ran.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("cri-imaged: ") and line.isprintable() for line in lines)


async def test_no_daemon(tmp_path: Path) -> None:
    absent = Peer(tmp_path / "absent.sock")
    ran = await absent.run("images")
    assert ran.code == 4
    assert "No such file" in ran.err
    assert "cri-imaged serve" in ran.err

    dead = Peer(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead.socket))
    ran = await dead.run("images")
    assert ran.code == 4
    assert "refused" in ran.err


async def test_the_address_option_goes_above_the_environment(peer: Peer, tmp_path: Path) -> None:
    peer.answers["StreamImages"] = []
    option = f"unix://{peer.socket}"
    ran = await peer.run("images", "--address", option, CRI_IMAGED_ADDRESS="/nowhere.sock")
    assert ran.code == 0
    ran = await peer.run("images", "--address", "/" + "x" * 200)
    assert ran.code == 2


async def test_usage_and_version(peer: Peer) -> None:
    assert (await peer.run("--version")).out == f"cri-imaged {__version__}\n"
    assert (await peer.run("pull")).code == 2
    assert (await peer.run("pull", "--nope", "a")).code == 2
    assert (await peer.run("nope")).code == 2


async def test_config(peer: Peer, tmp_path: Path) -> None:
    ran = await peer.run("config", "default")
    assert ran.code == 0
    file = tmp_path / "config.toml"
    file.write_text(ran.out)
    assert (await peer.run("config", "check", str(file))).out == f"{file}: ok\n"
    file.write_text("[image]\nmax_concurent_downloads = 3\n[grpc]\nuid = ''")
    ran = await peer.run("config", "check", "-o", "json", str(file))
    assert ran.code == 2
    assert json.loads(ran.out) == {
        "file": str(file),
        "ok": False,
        "problems": [
            "image.max_concurent_downloads: unknown key, "
            "did you mean image.max_concurrent_downloads?",
            "grpc.uid: expected int, got str",
        ],
    }
    ran = await peer.run("serve", "--config", str(file))
    assert ran.code == 2
    assert "max_concurrent_downloads" in ran.err
    ran = await peer.run("serve", "--metrics-address", "nowhere")
    assert ran.code == 2
    assert ran.err.startswith("cri-imaged: command line: metrics.address: ")


@pytest.mark.parametrize("asked", [False, True])
async def test_what_nobody_foresaw_has_no_traceback_unless_asked(peer: Peer, asked: bool) -> None:
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[IMAGE])]
    env = {**os.environ, "CRI_IMAGED_ADDRESS": str(peer.socket)}
    # No space left on the device that standard output goes to.
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            "images",
            stdout=full,
            stderr=subprocess.PIPE,
            env=env | {"CRI_IMAGED_TRACEBACK": "1"} if asked else env,
        )
    finally:
        os.close(full)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "No space left" in err.decode()
    assert ("Traceback" in err.decode()) == asked


async def test_a_reader_that_leaves_early_is_no_failure_worth_a_word(peer: Peer) -> None:
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[IMAGE])]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            "images",
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "CRI_IMAGED_ADDRESS": str(peer.socket)},
        )
    finally:
        os.close(writer)
    _, err = await process.communicate()
    assert err == b""
