"""What `login` and `logout` send, and what they leave in the file of logins."""

from __future__ import annotations

import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_imaged.cli import logins
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.rpc.node.v1 import registries_pb2 as api
from tests.cli.peer import Peer
from tests.support.leaks import MARK

SECRET = f"{MARK}-password"


@pytest.fixture
def file(peer: Peer, tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "auth.json"
    peer.answers["GetLoginFile"] = api.GetLoginFileResponse(path=str(path))
    peer.answers["CheckLogin"] = api.CheckLoginResponse(asked=True)
    return path


def kept(file: Path) -> dict[str, Any]:
    auths = json.loads(file.read_text())["auths"] if file.exists() else {}
    return {key: base64.b64decode(each["auth"]).decode() for key, each in auths.items()}


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


async def test_a_login_that_the_registry_takes_is_kept_for_its_owner_alone(
    peer: Peer, file: Path
) -> None:
    arguments = ("login", "-u", "ann", "--password-stdin", "registry.example:5000")
    ran = await peer.run(*arguments, stdin=f"{SECRET}\n")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"ann is logged in to registry.example:5000, by {file}\n"
    [asked] = peer.asked(api.CheckLoginRequest)
    assert (asked.registry, asked.auth.username, asked.auth.password) == (
        "registry.example:5000",
        "ann",
        SECRET,
    )
    assert mode(file) == 0o600
    assert kept(file) == {"registry.example:5000": f"ann:{SECRET}"}

    ran = await peer.run("login", "-u", "hub", "-o", "json", stdin=SECRET)
    shown = {"registry": "docker.io", "user": "hub", "file": str(file)}
    assert json.loads(ran.out) == shown
    assert set(kept(file)) == {"registry.example:5000", "https://index.docker.io/v1/"}

    assert (await peer.run("logout", "registry.example:5000")).code == 0
    assert (await peer.run("logout")).code == 0
    assert kept(file) == {}
    assert "has no login" in (await peer.run("logout")).out


async def test_a_login_that_is_refused_is_not_kept(peer: Peer, file: Path) -> None:
    peer.answers["CheckLogin"] = grpc.StatusCode.UNAUTHENTICATED, "cannot log in: 401"
    ran = await peer.run("login", "-u", "ann", "registry.example", stdin=SECRET)
    assert (ran.code, ran.out) == (5, "")
    assert kept(file) == {}


async def test_a_registry_that_asks_nobody_is_told(peer: Peer, file: Path) -> None:
    peer.answers["CheckLogin"] = api.CheckLoginResponse(asked=False)
    ran = await peer.run("login", "-u", "ann", "registry.example", stdin=SECRET)
    assert ran.code == 0
    assert "asks nobody to log in" in ran.err
    assert kept(file)


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [(["-u", "ann"], "", "no password for ann"), ([], SECRET, "name one with --username")],
)
async def test_what_is_missing_is_told(
    peer: Peer, file: Path, arguments: list[str], stdin: str, says: str
) -> None:
    ran = await peer.run("login", *arguments, "registry.example", stdin=stdin)
    assert ran.code == 2
    assert says in ran.err
    assert peer.requests == []


async def test_a_daemon_that_reads_no_file(peer: Peer) -> None:
    peer.answers["GetLoginFile"] = api.GetLoginFileResponse()
    ran = await peer.run("login", "-u", "ann", "registry.example", stdin=SECRET)
    assert ran.code == 2
    assert "image.registry.docker_config" in ran.err


def test_what_else_the_file_holds_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "config.json", tmp_path / "link"
    other = {"auths": {"https://Registry.Example/v2/": {"auth": "x"}, "b": {}}, "proxies": {"a": 1}}
    file.write_text(json.dumps(other))
    link.symlink_to(file)
    logins.add(link, "registry.example", "ann", SECRET)
    assert link.is_symlink()
    assert set(json.loads(file.read_text())["auths"]) == {"b", "registry.example"}
    assert json.loads(file.read_text())["proxies"] == {"a": 1}
    assert logins.remove(link, "registry.example:443")
    assert not logins.remove(link, "registry.example")


def test_logins_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    registries = [f"r{number}.example" for number in range(32)]
    with ThreadPoolExecutor(len(registries)) as threads:
        for done in [threads.submit(logins.add, file, each, "ann", SECRET) for each in registries]:
            done.result()
    assert set(kept(file)) == set(registries)
    assert mode(file) == 0o600


@pytest.mark.parametrize(
    "document", [{"credsStore": "pass"}, {"credHelpers": {"registry.example": "pass"}}]
)
def test_what_a_helper_keeps_is_left_to_it(tmp_path: Path, document: dict[str, Any]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(document))
    with pytest.raises(Failure, match="docker-credential-pass"):
        logins.add(file, "registry.example", "ann", SECRET)
    assert json.loads(file.read_text()) == document


@pytest.mark.parametrize("text", ["{", "[1]", '{"auths": 1}', '{"auths": {"a": 1'])
def test_a_file_that_is_none_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(Failure) as caught:
        logins.add(file, "registry.example", "ann", SECRET)
    assert caught.value.code == ExitCode.USAGE
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("before", ['{"auths": null}', "{}", "null", ""])
def test_a_file_without_logins_takes_one(tmp_path: Path, before: str) -> None:
    file = tmp_path / "auth.json"
    file.write_text(before)
    logins.add(file, "r.example", "ann", SECRET)
    assert kept(file) == {"r.example": f"ann:{SECRET}"}


@pytest.mark.parametrize("before", ["[" * 100_000, '{"auths": [1]}', "{"])
def test_what_is_no_file_of_logins_is_left_as_it_is(tmp_path: Path, before: str) -> None:
    file = tmp_path / "auth.json"
    file.write_text(before)
    with pytest.raises(Failure, match=r"no Docker config\.json"):
        logins.add(file, "r.example", "ann", SECRET)
    assert file.read_text() == before
