"""Failures end with the right exit code, a line and a next step."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from pathlib import Path

import grpc
import pytest

from cri_imaged import __version__
from cri_imaged.rpc.runtime.v1 import api_pb2
from tests.cli.peer import IMAGE, PROGRAM, Peer


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


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams(peer: Peer, closed: str) -> None:
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[IMAGE])]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'"$0" images {closed}', PROGRAM),
        stderr=subprocess.PIPE,
        env={**os.environ, "CRI_IMAGED_ADDRESS": str(peer.socket)},
    )
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
