"""OCI artifacts out of a real registry, by the real crictl, as files under a mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.test_kinds_of_images import mounted
from tests.support.artifacts import WASM, Artifact, archive, chart, module, titled
from tests.support.crictl import Crictl
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import file, layer, sha256

pytestmark = pytest.mark.real

CHART = layer({"demo/Chart.yaml": file("name: demo\n")}).blob
FOLDER = layer({"docs/guide.md": file("# Guide\n")})
PUSHED_BY_ORAS = Artifact(
    [
        titled("model.bin", b"weights" * 100_000, "application/octet-stream"),
        titled("etc/settings.toml", b"a = 1\n"),
        archive(FOLDER),
    ]
)


@pytest.fixture(autouse=True)
def _empty_store(empty_daemon: Daemon) -> None:
    """Every test here begins with no image."""


def push(registry: DockerRegistry, artifact: Artifact, name: str, at: Path) -> str:
    return registry.push_layout(artifact.write_layout(at, "pushed"), "pushed", name)


def files_under(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()
    }


def used(crictl: Crictl) -> int:
    return int(crictl.json("imagefsinfo")["status"]["imageFilesystems"][0]["usedBytes"]["value"])


@pytest.mark.parametrize(
    ("name", "artifact", "files"),
    [
        (
            "oras",
            PUSHED_BY_ORAS,
            {
                "model.bin": b"weights" * 100_000,
                "etc/settings.toml": b"a = 1\n",
                "docs/guide.md": b"# Guide\n",
            },
        ),
        ("chart", chart(CHART), {sha256(CHART)[7:]: CHART}),
        ("module", module(), {sha256(WASM)[7:]: WASM}),
    ],
)
def test_an_artifact_from_its_pull_to_its_removal(
    daemon: Daemon,
    crictl: Crictl,
    registry: DockerRegistry,
    tmp_path: Path,
    name: str,
    artifact: Artifact,
    files: dict[str, bytes],
) -> None:
    before = used(crictl)
    reference = push(registry, artifact, f"artifacts/{name}:1", tmp_path / "layout")
    assert crictl.pull(reference) == artifact.id
    (shown,) = crictl.json("images")["images"]
    assert (shown["id"], int(shown["size"])) == (artifact.id, artifact.size)
    status = crictl.json("inspecti", reference)["status"]
    assert (status["id"], status["repoTags"]) == (artifact.id, [reference])
    assert status["repoDigests"] == [f"{reference.removesuffix(':1')}@{artifact.id}"]
    with mounted(daemon, reference, tmp_path / "root") as root:
        assert files_under(root) == files
    assert used(crictl) > before
    daemon.cli("check")
    crictl("rmi", reference)
    assert crictl.json("images")["images"] == []
    daemon.cli("gc", "--resumable")
    assert used(crictl) == before


def test_artifacts_that_share_a_config_are_different_images(
    daemon: Daemon, crictl: Crictl, registry: DockerRegistry, tmp_path: Path
) -> None:
    both = {n: Artifact([titled("file", n.encode())]) for n in ("one", "two")}
    for n, artifact in both.items():
        crictl.pull(push(registry, artifact, f"artifacts/{n}:1", tmp_path / n))
    shown = {image["id"] for image in crictl.json("images")["images"]}
    assert shown == {artifact.id for artifact in both.values()}
    crictl("rmi", both["one"].id)
    with mounted(daemon, both["two"].id, tmp_path / "root") as root:
        assert files_under(root) == {"file": b"two"}


@pytest.mark.parametrize("title", ["../escape", "/escape", "a/../../escape", ".wh.escape"])
def test_a_hostile_title_is_refused(
    daemon: Daemon, crictl: Crictl, registry: DockerRegistry, tmp_path: Path, title: str
) -> None:
    artifact = Artifact([titled(title, b"x"), titled("good", b"g")])
    run = crictl.run("pull", push(registry, artifact, "artifacts/hostile:1", tmp_path / "layout"))
    assert run.returncode != 0
    assert "FailedPrecondition" in run.stderr
    assert "cannot be a file's name in a view" in run.stderr
    assert daemon.images() == []
