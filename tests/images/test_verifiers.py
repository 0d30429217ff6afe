"""Programs that decide what may be pulled, by containerd's protocol, well-behaved or not."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from cri_imaged.config.options import VerificationOptions
from cri_imaged.config.values import AtMost, Directory, Duration
from cri_imaged.errors import ConfigError, NotFoundError, SignatureRejectedError
from cri_imaged.images.health.problems import Unverified
from cri_imaged.images.tagging import Tagger
from cri_imaged.images.verification.programs import Programs
from cri_imaged.images.verification.standing import Standing
from cri_imaged.oci.descriptor import Descriptor
from cri_imaged.oci.digest import Digest
from tests.images.gated import GatedRegistry
from tests.images.workbench import Bench, image_of, layer, serve, until
from tests.support import images
from tests.support.registry import BLOB

NAME = "registry.example/app:1"
TARGET = Descriptor(images.MANIFEST, Digest.of(b"manifest"), 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "verifiers"
    made.mkdir()
    return made


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def ask(folder: Path, *, most: int = 10, seconds: float = 20.0) -> None:
    await Programs(folder, most, seconds).ask(NAME, TARGET)


async def objection(folder: Path, *, seconds: float = 20.0) -> str:
    with pytest.raises(SignatureRejectedError) as error:
        await ask(folder, seconds=seconds)
    return str(error.value)


async def test_a_program_is_told_of_the_image(folder: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program(folder, "a", f'printf "%s\\n" "$@" > {told}; cat >> {told}')
    await ask(folder)
    *arguments, document = told.read_text().splitlines()
    assert arguments == [
        *("-name", NAME, "-digest", TARGET.digest),
        *("-stdin-media-type", "application/vnd.oci.descriptor.v1+json"),
    ]
    assert json.loads(document) == {
        "mediaType": TARGET.media_type,
        "digest": TARGET.digest,
        "size": TARGET.size,
    }


async def test_a_shell_reads_the_descriptor_as_a_line(folder: Path) -> None:
    program(folder, "a", "set -e; read -r line; echo fine")
    await ask(folder)


async def test_all_have_to_accept(folder: Path) -> None:
    program(folder, "a", "echo fine")
    program(folder, "b", "echo it is too old; exit 3")
    found = await objection(folder)
    assert found == f"{NAME}: verifier b: rejected the image (exit code 3): it is too old"


@pytest.mark.parametrize(("number", "name"), [(15, "SIGTERM"), (35, "signal 35")])
async def test_a_program_that_a_signal_ends_rejects(folder: Path, number: int, name: str) -> None:
    program(folder, "a", f"kill -{number} $$; sleep 60")
    assert await objection(folder) == f"{NAME}: verifier a: was ended by {name}"


@pytest.mark.parametrize(("most", "asked"), [(2, "ab"), (-1, "abc"), (0, "")])
async def test_so_many_are_asked_in_the_order_of_their_names(
    folder: Path, tmp_path: Path, most: int, asked: str
) -> None:
    told = tmp_path / "told"
    told.touch()
    for name in "cab":
        program(folder, name, f"printf {name} >> {told}")
    await ask(folder, most=most)
    assert told.read_text() == asked


async def test_nobody_is_asked_where_there_is_nobody(folder: Path) -> None:
    await ask(folder)
    await ask(folder / "missing")


async def test_a_folder_that_cannot_be_read_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"image\.verification\.bin_dir: .*Not a directory"):
        await ask(program(folder, "a", "exit 0"))


async def test_what_cannot_be_run_rejects(folder: Path) -> None:
    program(folder, "a", "exit 0").chmod(0o644)
    assert "verifier a: cannot be run: Permission denied" in await objection(folder)


@pytest.mark.parametrize("text", ["", "echo no program\n"])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_what_is_no_program_rejects_and_no_shell_is_asked_instead(
    folder: Path, run: Callable[[Coroutine[None, None, None]], None], text: str
) -> None:
    program(folder, "a", "").write_text(text)
    with pytest.raises(SignatureRejectedError, match="a: cannot be run: Exec format error"):
        run(ask(folder))


async def test_a_program_that_crashes_rejects(folder: Path) -> None:
    program(folder, "a", "kill -SEGV $$")
    assert "was ended by SIGSEGV" in await objection(folder)


async def test_a_program_that_hangs_is_ended_with_all_that_it_started(
    folder: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    program(folder, "a", f"sleep 1000 & echo $! $$ > {pids}; wait")
    assert "gave no verdict within 0.5 s" in await objection(folder, seconds=0.5)
    for pid in pids.read_text().split():
        await until(lambda pid=pid: not runs(int(pid)))


async def test_what_a_program_leaves_behind_is_ended_and_not_waited_for(
    folder: Path, tmp_path: Path
) -> None:
    """It has the program's output open."""
    pids = tmp_path / "pids"
    program(folder, "a", f"sleep 1000 & echo $! > {pids}; echo no; exit 1")
    began = time.monotonic()
    assert (await objection(folder)).endswith("(exit code 1): no")
    assert time.monotonic() - began < 10
    await until(lambda: not runs(int(pids.read_text())))


async def test_a_daemon_that_a_program_starts_holds_nobody_up(folder: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program(folder, "a", f"setsid sh -c 'echo $$ > {pids}; exec sleep 1000' & echo no; exit 1")
    try:
        assert (await objection(folder)).endswith("(exit code 1): no")
    finally:
        if pids.exists() and pids.read_text():
            os.kill(int(pids.read_text()), 9)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("stream", [1, 2])
async def test_a_noisy_program_is_read_to_its_end_and_kept_in_part(
    folder: Path, stream: int
) -> None:
    program(folder, "a", f"head -c 20000000 /dev/zero | tr '\\0' x >&{stream}; exit 1")
    found = await objection(folder)
    assert "rejected the image (exit code 1)" in found
    assert len(found) < 1200


async def test_a_program_that_reads_nothing_is_no_matter(folder: Path) -> None:
    program(folder, "a", "exec <&-; echo fine")
    await ask(folder)


# --- in pulls --------------------------------------------------------------------------------


@asynccontextmanager
async def guarded(root: Path, registry: GatedRegistry, folder: Path) -> AsyncIterator[Bench]:
    options = VerificationOptions(
        bin_dir=Directory(folder), max_verifiers=AtMost(10), per_verifier_timeout=Duration(20)
    )
    async with Bench.open(root, registry, verification=options) as bench:
        yield bench


async def test_what_is_rejected_is_not_fetched_and_told_where_it_is_here(
    tmp_path: Path, registry: GatedRegistry, folder: Path
) -> None:
    serve(registry, image_of(layer(0)))
    async with guarded(tmp_path / "root", registry, folder) as bench:
        program(folder, "a", "echo no; exit 1")
        with pytest.raises(SignatureRejectedError):
            await bench.pull()
        assert registry.gets(BLOB) == []
        program(folder, "a", 'case "$2" in *:latest) echo fine;; *) echo no; exit 1;; esac')
        await bench.pull()
        problems = [
            event
            async for event in bench.parts.checker.check(repair=False)
            if isinstance(event, Unverified)
        ]
        (problem,) = problems  # its digest, by which the program takes it from nobody
        assert "@sha256:" in problem.subject
        assert "verifier a: rejected the image (exit code 1): no" in problem.description


async def test_a_name_is_given_to_that_image_alone_which_was_judged(
    tmp_path: Path, registry: GatedRegistry, folder: Path
) -> None:
    asked, go_on = tmp_path / "asked", tmp_path / "go on"
    waits = f'touch "{asked}"; while [ ! -e "{go_on}" ]; do sleep 0.05; done'
    serve(registry, image_of(layer(0)))
    async with guarded(tmp_path / "root", registry, folder) as bench:
        await bench.pull()
        program(folder, "a", f'case "$2" in *:good) {waits};; esac')
        base = bench.parts.base
        standing = Standing(bench.parts.demands, base.stores.database)
        tagger = Tagger(base.stores.database, base.publisher, standing)
        tagging = asyncio.create_task(tagger.tag(bench.name(), "", bench.name("good")))
        await until(asked.exists)
        serve(registry, image_of(layer(1)))
        await bench.pull()
        go_on.touch()
        with pytest.raises(NotFoundError, match="meanwhile"):
            await tagging
        assert bench.parts.store.get(bench.name("good")) is None
