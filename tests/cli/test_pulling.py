"""What `pull` and `pulls` send and print, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from typing import Any

import grpc
import pytest

from cri_imaged.rpc.node.v1 import catalog_pb2, node_pb2, registries_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2
from tests.cli.peer import IMAGE_ID, PROGRAM, Peer
from tests.support.leaks import MARK

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


async def test_what_the_user_may_miss_is_told_on_standard_error(peer: Peer) -> None:
    facts = {"warnings": ["its config is for linux/s390x\x1b[31m", "its root lacks 3 owners"]}
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(
        image=api_pb2.Image(id=IMAGE_ID), info={"info": json.dumps(facts)}
    )
    ran = await peer.run("pull", "-q", "a", "--runtime-handler", "kata")
    assert (ran.code, ran.out) == (0, f"{IMAGE_ID}\n")
    assert ran.err.splitlines() == [
        "warning: a: its config is for linux/s390x\\x1b[31m",
        "warning: a: its root lacks 3 owners",
    ]
    [asked] = peer.asked(api_pb2.ImageStatusRequest)
    assert (asked.image.image, asked.image.runtime_handler, asked.verbose) == (
        IMAGE_ID,
        "kata",
        True,
    )


async def test_a_quiet_pull_and_its_json(peer: Peer) -> None:
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    ran = await peer.run("pull", "-q", "-o", "json", "a")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {"image": "a", "id": IMAGE_ID}
    assert not peer.asked(node_pb2.WatchPullsRequest)


async def test_of_several_one_that_fails_keeps_no_other_from_being_pulled(peer: Peer) -> None:
    async def pull(request: Any) -> Any:
        if request.image.image == "b":
            return grpc.StatusCode.NOT_FOUND, "b: nobody has it"
        return api_pb2.PullImageResponse(image_ref=f"sha256:{request.image.image}")

    peer.answers["PullImage"] = pull
    ran = await peer.run("pull", "-q", "b", "a", "c")
    assert (ran.code, ran.out) == (3, "sha256:a\nsha256:c\n")
    assert "b: nobody has it" in ran.err
    shown = json.loads((await peer.run("pull", "-q", "-o", "json", "a", "c")).out)
    assert shown == [{"image": "a", "id": "sha256:a"}, {"image": "c", "id": "sha256:c"}]


async def test_all_tags(peer: Peer) -> None:
    peer.answers["ListTags"] = registries_pb2.ListTagsResponse(
        repository="docker.io/library/a", tags=["1", "2"]
    )
    peer.answers["PullImage"] = api_pb2.PullImageResponse(image_ref=IMAGE_ID)
    ran = await peer.run("pull", "-q", "--all-tags", "--creds", f"u:{MARK}", "a")
    assert (ran.code, ran.out) == (0, f"{IMAGE_ID}\n" * 2)
    [listed] = peer.asked(registries_pb2.ListTagsRequest)
    assert (listed.repository, listed.auth.username) == ("a", "u")
    asked = [request.image.image for request in peer.asked(api_pb2.PullImageRequest)]
    assert asked == ["docker.io/library/a:1", "docker.io/library/a:2"]
    peer.answers["ListTags"] = grpc.StatusCode.NOT_FOUND, "no such repository"
    assert (await peer.run("pull", "-a", "a")).code == 3


async def test_a_pull_for_another_platform(peer: Peer) -> None:
    peer.answers["PullForPlatform"] = catalog_pb2.PullForPlatformResponse(image_id=IMAGE_ID)
    ran = await peer.run("pull", "-q", "--platform", "linux/arm64", "a")
    assert (ran.code, ran.out) == (0, f"{IMAGE_ID}\n")
    [request] = peer.asked(catalog_pb2.PullForPlatformRequest)
    assert (request.pull.image.image, request.platform) == ("a", "linux/arm64")


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
        (f"u:{MARK}:q", "", "u", f"{MARK}:q"),
        ("u:", "", "u", ""),
        ("u", f"{MARK} from stdin\n", "u", f"{MARK} from stdin"),
    ],
    ids=["with colons", "empty", "from standard input"],
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
