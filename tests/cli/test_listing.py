"""What `images`, `inspect`, `rm`, `fs`, `gc` and `views` send and print."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from cri_imaged import __version__
from cri_imaged.rpc.node.v1 import catalog_pb2, node_pb2, runtimes_pb2, upkeep_pb2
from cri_imaged.rpc.runtime.v1 import api_pb2
from tests.cli.peer import IMAGE, IMAGE_ID, Peer


async def test_images(peer: Peer) -> None:
    peer.answers["StreamImages"] = [
        api_pb2.StreamImagesResponse(images=[IMAGE]),
        api_pb2.StreamImagesResponse(images=[api_pb2.Image(id="sha256:ff", size=1)]),
    ]
    built = int((time.time() - 3 * 86400) * 1e9)
    known = catalog_pb2.ImageDescription(image_id=IMAGE_ID, built_at=built)
    peer.answers["DescribeImages"] = [catalog_pb2.DescribeImagesResponse(images=[known])]
    ran = await peer.run("images", "a")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split("   ") for line in squeezed(ran.out)] == [
        ["IMAGE", "TAG", "IMAGE ID", "CREATED", "SIZE", "PINNED"],
        ["docker.io/library/a", "1", "0123456789abc", "3 days ago", "2.0 KiB"],
        ["<none>", "<none>", "ff", "1 B"],
    ]
    assert peer.asked(api_pb2.StreamImagesRequest)[0].filter.image.image == "a"

    assert (await peer.run("images", "-q")).out.split() == [IMAGE_ID, "sha256:ff"]
    shown = json.loads((await peer.run("images", "-o", "json")).out)
    assert [image["id"] for image in shown["images"]] == [IMAGE_ID, "sha256:ff"]
    assert [image["built_at"] for image in shown["images"]] == [built, None]
    shown = yaml.safe_load((await peer.run("images", "-o", "yaml", "-f", "dangling=true")).out)
    assert [image["id"] for image in shown["images"]] == ["sha256:ff"]
    line = r"{{.Repository}}:{{.Tag}}\t{{.CreatedSince}}"
    ran = await peer.run("images", "--format", line, "--filter", "reference=a")
    assert ran.out == "docker.io/library/a:1\t3 days ago\n"
    ran = await peer.run("images", "--format", r"table {{.ID}}\t{{.Size}}", "--no-trunc")
    assert squeezed(ran.out) == ["IMAGE ID   SIZE", f"{IMAGE_ID}   2.0 KiB", "sha256:ff   1 B"]
    assert (await peer.run("images", "--format", "{{.Sise}}")).code == 2


def squeezed(text: str) -> list[str]:
    """A table's lines, whose columns are three blanks apart."""
    return [re.sub(r" {3,}", "   ", line) for line in text.splitlines()]


async def test_a_repositorys_name_means_all_its_tags(peer: Peer) -> None:
    names = {"ff": "docker.io/library/a:2", "fe": "docker.io/library/ab:1", "fd": "r.example/a:1"}
    every = [IMAGE, *(api_pb2.Image(id=f"sha256:{key}", repo_tags=[names[key]]) for key in names)]

    async def answer(request: api_pb2.StreamImagesRequest) -> list[api_pb2.StreamImagesResponse]:
        """None is a:latest."""
        found = [] if request.filter.image.image else every
        return [api_pb2.StreamImagesResponse(images=found)]

    peer.answers["StreamImages"] = answer
    for name in ("a", "library/a", "docker.io/library/a"):
        assert (await peer.run("images", "-q", name)).out.split() == [IMAGE_ID, "sha256:ff"]
    for name in ("a:3", "r.example/b", "a@sha256:" + 64 * "0"):
        assert "no such image is present" in (await peer.run("images", name)).err


async def test_a_stands_for_all_as_elsewhere(peer: Peer) -> None:
    pinned = api_pb2.Image(id="sha256:ff", pinned=True)
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[IMAGE, pinned])]
    for words in (["images", "-a"], ["ls", "-aq"], ["image", "ls", "--all"]):
        ran = await peer.run(*words)
        assert (ran.code, ran.err) == (0, "")
        assert len(set(re.findall("0123456789abc|ff", ran.out))) == 2

    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE)
    peer.answers["RemoveImage"] = api_pb2.RemoveImageResponse()
    assert (await peer.run("rmi", "-a", "/run/elsewhere.sock")).code == 2  # once was --address
    assert not peer.asked(api_pb2.RemoveImageRequest)
    assert (await peer.run("rmi", "-a")).code == 0
    (removed,) = peer.asked(api_pb2.RemoveImageRequest)
    assert removed.image.image == IMAGE_ID


async def test_a_filter_that_nothing_meets_is_told(peer: Peer) -> None:
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse()]
    ran = await peer.run("images", "ls")
    assert (ran.code, ran.out) == (0, "")
    assert "no such image is present" in ran.err


async def test_df(peer: Peer) -> None:
    small = api_pb2.Image(id="sha256:ff", size=1)
    shares = [
        catalog_pb2.ImageDescription(image_id="sha256:ff", bytes=1024, unique_bytes=1024),
        catalog_pb2.ImageDescription(image_id=IMAGE_ID, bytes=4096, unique_bytes=1024),
    ]
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[small, IMAGE])]
    peer.answers["DescribeImages"] = [catalog_pb2.DescribeImagesResponse(images=shares)]
    assert squeezed((await peer.run("df")).out)[:3] == [
        "IMAGE   IMAGE ID   ON DISK   UNIQUE   SHARED",
        "docker.io/library/a:1   0123456789abc   4.0 KiB   1.0 KiB   3.0 KiB",
        "<none>   ff   1.0 KiB   1.0 KiB   0 B",
    ]
    assert peer.requests[-1].sizes
    shown = json.loads((await peer.run("df", "-o", "json")).out)
    assert [each["unique_bytes"] for each in shown["images"]] == [1024, 1024]


async def test_tag(peer: Peer) -> None:
    answer = catalog_pb2.TagImageResponse(image_id=IMAGE_ID, tag="docker.io/library/b:latest")
    peer.answers["TagImage"] = answer
    assert (await peer.run("tag", "a", "b")).out == f"docker.io/library/b:latest is {IMAGE_ID}\n"
    assert peer.requests == [catalog_pb2.TagImageRequest(image="a", tag="b")]


@pytest.mark.parametrize(
    ("command", "answer", "told"),
    [
        ("pin", node_pb2.PinImageResponse(image_id=IMAGE_ID), {"pinned": [IMAGE_ID]}),
        ("unpin", node_pb2.UnpinImageResponse(), {"unpinned": ["a"]}),
        (
            "untag",
            catalog_pb2.UntagImageResponse(image_id=IMAGE_ID, tag="r.example/a:1"),
            {"untagged": [{"image_id": IMAGE_ID, "tag": "r.example/a:1"}]},
        ),
    ],
)
async def test_what_was_done_before_one_failed_is_told_to_programs(
    peer: Peer, command: str, answer: Any, told: Any
) -> None:
    answers = [(grpc.StatusCode.NOT_FOUND, "no b is here"), answer]

    async def one_after_the_other(_: Any) -> Any:
        return answers.pop()

    peer.answers[f"{command.capitalize()}Image"] = one_after_the_other
    ran = await peer.run(command, "a", "b", "-o", "json")
    assert (ran.code, json.loads(ran.out)) == (3, told)


async def test_inspect_of_several(peer: Peer) -> None:
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE)
    shown = json.loads((await peer.run("inspect", "a", "b", "-o", "json")).out)
    assert [each["image"]["id"] for each in shown] == [IMAGE_ID, IMAGE_ID]
    asked = peer.asked(api_pb2.ImageStatusRequest)
    assert {request.image.image for request in asked} == {"a", "b"}


async def test_inspect_by_a_template(peer: Peer) -> None:
    config = {"Entrypoint": ["/a", "b c"], "User": "1000", "WorkingDir": "/\x1b[31m"}
    info = {"info": json.dumps({"imageSpec": {"os": "linux", "config": config}})}
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE, info=info)

    async def shown(template: str, *names: str) -> str:
        return (await peer.run("inspect", "--format", template, *(names or ("a",)))).out

    assert await shown("{{.Id}}", "a", "b") == f"{IMAGE_ID}\n{IMAGE_ID}\n"
    assert await shown("{{.Os}}\\t{{.Created}}|{{json .Created}}") == "linux\t|null\n"
    assert await shown("{{.Config.Entrypoint}} {{.Config.User}} {{json .Config.User}}") == (
        '["/a", "b c"] 1000 "1000"\n'
    )
    assert "\x1b" not in await shown("{{.Config.WorkingDir}} {{.Config}} {{json .}}")
    whole = json.loads(await shown("{{json .}}"))
    assert (whole["Config"], "Config.User" in whole) == (config, False)
    refused = await peer.run("inspect", "-f", "{{.Config.Secret}}", "a")
    assert (refused.code, refused.out) == (2, "")
    assert ".Config.Entrypoint" in refused.err
    for odd in ("[]", '{"imageSpec": 5}', '{"imageSpec": {"config": [], "rootfs": 1}}', "{"):
        answer = api_pb2.ImageStatusResponse(image=IMAGE, info={"info": odd})
        peer.answers["ImageStatus"] = answer
        assert await shown("{{.Size}} {{.Config.User}}") == "2048 \n"


async def test_history(peer: Peer) -> None:
    steps = [{"created_by": "ADD rootfs"}, {"created_by": "CMD sh", "empty_layer": True}]
    info = {"info": json.dumps({"imageSpec": {"history": steps}})}
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE, info=info)
    ran = await peer.run("history", "a")
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["no", "CMD", "sh"],
        ["yes", "ADD", "rootfs"],
    ]
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE)
    assert (await peer.run("history", "a")).code == 1


@pytest.mark.parametrize(
    ("layers", "shown"), [([2048, 5], ["5 B", "", "2.0 KiB"]), ([2048], ["", "", ""])]
)
async def test_a_history_has_the_sizes_of_its_layers(
    peer: Peer, layers: list[int], shown: list[str]
) -> None:
    """None where it is not these layers' history."""
    steps = [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}, {}]
    facts = {"imageSpec": {"history": steps}, "layerSizes": layers}
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(
        image=IMAGE, info={"info": json.dumps(facts)}
    )
    header, *rows = (await peer.run("history", "a")).out.splitlines()
    start, end = header.index("SIZE"), header.index("CREATED BY")
    assert [row[start:end].strip() for row in rows] == shown


@pytest.mark.parametrize(
    ("history", "lines"), [(None, 0), ("x", 0), ([None, {"created_by": None}, 5], 1), ({}, 0)]
)
async def test_a_history_that_says_little(peer: Peer, history: Any, lines: int) -> None:
    """The daemon takes images whatever it is."""
    info = {"info": json.dumps({"imageSpec": {"history": history}})}
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE, info=info)
    for form in ("text", "json"):
        ran = await peer.run("history", "a", "-o", form)
        assert ran.code == 0
    assert len(json.loads(ran.out)["history"]) == lines


async def test_version(peer: Peer) -> None:
    peer.answers["Version"] = api_pb2.VersionResponse(runtime_version="7.8")
    shown = json.loads((await peer.run("version", "-o", "json")).out)
    assert shown == {"client": __version__, "daemon": "7.8"}
    ran = await peer.run("version", "--address", "/nowhere.sock")
    assert (ran.code, ran.out) == (0, f"client  {__version__}\n")
    assert "no daemon" in ran.err


async def test_rm_all_spares_what_is_pinned(peer: Peer) -> None:
    pinned = api_pb2.Image(id="sha256:ff", pinned=True)
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[IMAGE, pinned])]
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE)
    peer.answers["RemoveImage"] = api_pb2.RemoveImageResponse()
    ran = await peer.run("rm", "--all")
    assert ran.out == f"removed {IMAGE_ID}\n"
    assert (await peer.run("rm")).code == 2
    assert (await peer.run("rm", "--all", "a")).code == 2


async def test_rm_by_force_tells_of_what_is_not_there_and_succeeds(peer: Peer) -> None:
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse()
    assert (await peer.run("rmi", "gone")).code == 3
    ran = await peer.run("rmi", "-f", "gone")
    assert ran.code == 0
    assert "no image gone is present" in ran.err


async def test_inspect(peer: Peer) -> None:
    facts = {
        "chainID": "sha256:cc",
        "imageSpec": {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Cmd": ["sh", "-c"], "Labels": {"evil": "\x1b[31m"}},
        },
        "warnings": ["it lacks 2 devices"],
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
        "warning": "it lacks 2 devices",
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
    for names, code in ((["a"], 0), (["missing", "a"], 3)):
        ran = await peer.run("rm", *names, "-o", "json")
        assert (ran.code, json.loads(ran.out)) == (code, {"removed": [IMAGE_ID]})


async def test_fs_gc_and_views(peer: Peer) -> None:
    usage = api_pb2.FilesystemUsage(
        timestamp=1_767_225_600 * 10**9,
        fs_id=api_pb2.FilesystemIdentifier(mountpoint="/var/lib/x"),
        used_bytes=api_pb2.UInt64Value(value=3 << 20),
        inodes_used=api_pb2.UInt64Value(value=7),
    )
    peer.answers["ImageFsInfo"] = api_pb2.ImageFsInfoResponse(image_filesystems=[usage])
    peer.answers["ListRuntimeSnapshots"] = runtimes_pb2.ListRuntimeSnapshotsResponse()
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
    assert shown["containers"] == []

    held = [
        runtimes_pb2.RuntimeSnapshot(runtime="containerd", name=name, kind=kind, bytes=size)
        for name, kind, size in (
            ("k8s.io/1/small", runtimes_pb2.RUNTIME_SNAPSHOT_KIND_ACTIVE, 1 << 20),
            ("k8s.io/2/large", runtimes_pb2.RUNTIME_SNAPSHOT_KIND_ACTIVE, 2 << 20),
            ("sha256:cc", runtimes_pb2.RUNTIME_SNAPSHOT_KIND_COMMITTED, 0),
        )
    ]
    peer.answers["ListRuntimeSnapshots"] = runtimes_pb2.ListRuntimeSnapshotsResponse(snapshots=held)
    lines = [line.split() for line in (await peer.run("fs")).out.splitlines()]
    assert lines[3:] == [
        ["RUNTIME", "CONTAINER", "WRITTEN", "INODES"],
        ["containerd", "k8s.io/2/large", "2.0", "MiB", "0"],
        ["containerd", "k8s.io/1/small", "1.0", "MiB", "0"],
    ]

    peer.answers["CollectGarbage"] = node_pb2.CollectGarbageResponse(blobs=2, snapshots=1, bytes=9)
    assert (await peer.run("gc", "--resumable")).out == "freed 9 B: 2 blobs, 1 snapshot\n"
    assert peer.requests[-1].resumable
    shown = json.loads((await peer.run("gc", "-o", "json")).out)
    assert shown == {"blobs": 2, "snapshots": 1, "bytes": 9}
    assert not peer.requests[-1].resumable

    removal = upkeep_pb2.ImageRemoval(image_id="sha256:a", names=["r.example/a:1"], bytes=2048)
    removal.last_used, removal.reason = 10**9, "age"
    peer.answers["CollectImages"] = upkeep_pb2.CollectImagesResponse(
        removals=[removal], enabled=True
    )
    lines = (await peer.run("gc", "--images", "--dry-run")).out.splitlines()
    assert lines[1].split() == ["r.example/a:1", "1970-01-01T00:00:01Z", "age", "2.0", "KiB"]
    assert lines[2:] == ["1 image would go: 2.0 KiB"]
    assert peer.requests[-1].dry_run
    assert (await peer.run("gc", "--images")).out.splitlines()[2:] == [
        "removed 1 image: 2.0 KiB",
        "freed 9 B: 2 blobs, 1 snapshot",
    ]
    peer.answers["CollectImages"] = upkeep_pb2.CollectImagesResponse()
    assert "image.gc.max_age" in (await peer.run("gc", "--images", "--dry-run")).err
    refused = await peer.run("gc", "--dry-run")
    assert (refused.code, "--images" in refused.err) == (2, True)

    view = node_pb2.View(key="mount:/x", chain_id="sha256:cc", snapshotter="native", writable=True)
    peer.answers["ListViews"] = node_pb2.ListViewsResponse(views=[view])
    assert (await peer.run("views")).out.splitlines()[1].split()[:3] == ["mount:/x", "native", "rw"]
    assert json.loads((await peer.run("views", "-o", "json")).out)["views"][0]["writable"] is True


async def test_check(peer: Peer) -> None:
    lost = node_pb2.CheckProblem(
        kind="missing-blob", subject="sha256:aa", description="its file is gone", images=["a:1"]
    )
    mended = node_pb2.CheckProblem(
        kind="damaged-snapshot", subject="sha256:bb", description="x\x1b", repaired=True
    )
    progress = node_pb2.CheckProgress(subject="sha256:aa", bytes_checked=1, bytes_total=2)
    summary = node_pb2.CheckSummary(
        blobs=1, snapshots=2, images=1, bytes=1024, problems=2, repaired=1
    )
    peer.answers["CheckStore"] = [
        node_pb2.CheckStoreResponse(progress=progress),
        node_pb2.CheckStoreResponse(problem=lost),
        node_pb2.CheckStoreResponse(problem=mended),
        node_pb2.CheckStoreResponse(summary=summary),
    ]
    ran = await peer.run("check")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "missing-blob: sha256:aa: its file is gone (a:1)",
        "damaged-snapshot: sha256:bb: x\\x1b: repaired",
        "checked 1 image, 1 blob, 2 snapshots, 1.0 KiB: 2 problems, 1 repaired",
    ]
    assert "1 problem left" in ran.err
    assert "--repair" in ran.err

    summary.repaired = 2
    peer.answers["CheckStore"] = [node_pb2.CheckStoreResponse(summary=summary)]
    ran = await peer.run("check", "--repair", "-o", "json")
    assert ran.code == 0
    assert json.loads(ran.out)["summary"]["bytes"] == 1024
    assert peer.requests[-1].repair


async def test_a_check_offline_makes_no_store(peer: Peer, tmp_path: Path) -> None:
    """Or a misspelt root would be told to be in order."""
    ran = await peer.run("check", "--offline", "--root", str(tmp_path / "misspelt"))
    assert (ran.code, ran.out) == (2, "")
    assert "no store in" in ran.err
    assert not (tmp_path / "misspelt").exists()
