"""Policies and verifiers with a real registry, the real daemon, and containerd beside it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support import signing
from tests.support.containerd import CACHE, VERSIONS
from tests.support.crictl import Crictl
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import INDEX, MANIFEST, file, image, layer, sha256
from tests.support.process import Process, wait_until
from tests.support.require import require_real
from tests.support.signing import Signer, signer

pytestmark = pytest.mark.real


@pytest.fixture
def team(scratch: Scratch) -> Signer:
    return signer(scratch("team"), "team")


def put(registry: DockerRegistry, path: str, data: bytes, media_type: str) -> None:
    """Put a manifest or an upload into the registry."""
    url = path if "://" in path else f"http://{registry.host}/v2/{path}"
    request = urllib.request.Request(url, data, {"Content-Type": media_type}, method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass


def upload(registry: DockerRegistry, repository: str, blob: bytes) -> None:
    url = f"http://{registry.host}/v2/{repository}/blobs/uploads/"
    with urllib.request.urlopen(urllib.request.Request(url, b"", method="POST")) as answer:
        location = str(answer.headers["Location"])
    location += f"{'&' if '?' in location else '?'}digest={sha256(blob)}"
    put(registry, location, blob, "application/octet-stream")


def sign(registry: DockerRegistry, reference: str, by: Signer) -> None:
    """As `cosign sign` of version 2."""
    repository, digest = named(registry, reference)
    data = signing.payload(digest)
    manifest, blobs = signing.signature_manifest((data, by.sign(data)))
    for blob in blobs:
        upload(registry, repository, blob)
    tag = signing.signature_tag(digest)
    put(registry, f"{repository}/manifests/{tag}", manifest, MANIFEST)


def sign_by_bundle(registry: DockerRegistry, reference: str, by: Signer) -> None:
    """As `cosign sign` of version 3, for a registry without a list of referrers."""
    repository, digest = named(registry, reference)
    bundle = signing.bundle(digest, by)
    for blob in (bundle, b"{}"):
        upload(registry, repository, blob)
    manifest = signing.bundle_manifest(digest, bundle)
    put(registry, f"{repository}/manifests/{sha256(manifest)}", manifest, MANIFEST)
    index = signing.referrers_index(manifest)
    put(registry, f"{repository}/manifests/{digest.replace(':', '-')}", index, INDEX)


def named(registry: DockerRegistry, reference: str) -> tuple[str, str]:
    repository = reference.removeprefix(registry.host + "/").partition(":")[0]
    return repository, registry.digest(reference)


def options(folder: Path, registry: DockerRegistry, *keys: Signer) -> str:
    files = ", ".join(f'"{each.file}"' for each in keys)
    return f"""
[image.verification]
bin_dir = "{folder}"
[[image.verification.policy]]
match = "{registry.host}/signed"
require = "signed"
keys = [{files}]
[[image.verification.policy]]
match = "{registry.host}/closed"
require = "reject"
"""


@pytest.mark.parametrize("attach", [sign, sign_by_bundle])
def test_what_is_signed_is_pulled_until_its_key_is_withdrawn(
    scratch: Scratch,
    registry: DockerRegistry,
    team: Signer,
    attach: Callable[[DockerRegistry, str, Signer], None],
) -> None:
    name = attach.__name__
    reference = registry.push(image(layer({"name": file(name)})), f"signed/{name}:1")
    folder, other = scratch("verifiers"), signer(scratch("other"), "other")
    node = Daemon(scratch("node"), "native", image_options=options(folder, registry, team))
    with node:
        assert "it has no signature" in refusal(node, reference)
        attach(registry, reference, other)
        assert "signatures by other keys: 1" in refusal(node, reference)
        attach(registry, reference, team)
        node.pull(reference)
        node.cli("check")
        text = node.config.read_text()
        node.config.write_text(text.replace(str(team.file), str(other.file)))
        assert "image.verification.policy" in node.cli("config", "reload").stdout
        refusal(node, reference)
        run = node.cli("check", check=False)
        assert run.returncode != 0
        assert f"unverified-image: {reference}: " in run.stdout
        node.config.write_text(text)
        node.cli("config", "reload")
        node.cli("check")


def refusal(node: Daemon, reference: str) -> str:
    with pytest.raises(grpc.RpcError) as error:
        node.pull(reference)
    message = str(error.value.details())
    assert error.value.code() is grpc.StatusCode.UNKNOWN
    assert message.startswith("SignatureValidationFailed: ")
    return message


def test_a_closed_repository_is_refused_and_crictl_shows_why(
    scratch: Scratch, registry: DockerRegistry, team: Signer, crictl_program: Path
) -> None:
    reference = registry.push(image(layer({"name": file("closed")})), "closed/app:1")
    extra = options(scratch("verifiers"), registry, team)
    with Daemon(scratch("node"), "native", image_options=extra) as node:
        run = Crictl(crictl_program, node.endpoint).run("pull", reference)
        assert run.returncode != 0
        assert "SignatureValidationFailed: " in run.stderr
        assert 'closed" rejects it' in run.stderr.replace("\\", "")


RECORD = """\
#!/bin/sh
mkdir -p {told}; printf '%s\\n' "$@" > {told}/arguments; cat > {told}/descriptor; {verdict}
"""


@dataclass(frozen=True)
class Verifier:
    """A program that writes down what it is told."""

    folder: Path
    told: Path

    def write(self, verdict: str) -> None:
        program = self.folder / "record"
        program.write_text(RECORD.format(told=self.told, verdict=verdict))
        program.chmod(0o755)

    def heard(self) -> tuple[list[str], dict[str, object]]:
        arguments = (self.told / "arguments").read_text().splitlines()
        return arguments, json.loads((self.told / "descriptor").read_text())


@pytest.fixture
def containerd(scratch: Scratch) -> Iterator[tuple[Path, Path]]:
    """containerd's directory of verifiers, and its socket."""
    built = CACHE / f"containerd-{VERSIONS[0]}"
    require_real(built.is_dir(), f"containerd {VERSIONS[0]} is not built (`make real`)")
    place, folder = scratch("containerd"), scratch("theirs")
    config = place / "config.toml"
    config.write_text(f"""
version = 3
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
address = "{place}/containerd.sock"
[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "{folder}"
""")
    command = [str(built / "containerd"), "--config", str(config)]
    process = Process(command, place / "containerd.log")
    process.start()
    try:
        socket = place / "containerd.sock"
        wait_until(socket.exists, "containerd listens", process)
        yield folder, socket
    finally:
        process.stop()


def test_verifiers_are_told_what_containerd_tells_them(
    scratch: Scratch,
    registry: DockerRegistry,
    team: Signer,
    containerd: tuple[Path, Path],
) -> None:
    reference = registry.push(image(layer({"name": file("told")})), "open/told:1")
    theirs = Verifier(containerd[0], scratch("theirs-told"))
    ours = Verifier(scratch("ours"), scratch("ours-told"))
    extra = options(ours.folder, registry, team)
    ctr = CACHE / f"containerd-{VERSIONS[0]}" / "ctr"
    command = [ctr, "--address", containerd[1], "images", "pull", "--plain-http", reference]
    with Daemon(scratch("node"), "native", image_options=extra) as node:
        for verdict, accepted in (("echo too old; exit 7", False), ("echo fine", True)):
            theirs.write(verdict)
            ours.write(verdict)
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert (run.returncode == 0) is accepted, run.stderr
            if accepted:
                node.pull(reference)
            else:
                said = "(exit code 7): too old"
                assert said in refusal(node, reference)
                assert said in run.stderr
            assert ours.heard() == theirs.heard()
