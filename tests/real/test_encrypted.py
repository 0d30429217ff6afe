"""Images that skopeo has encrypted: pulled by who has a key, and by nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.real.conftest import Scratch
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.images import directory, file, image, layer, write_layout
from tests.support.require import require_real

pytestmark = pytest.mark.real

BIG = os.urandom(2_000_000)
IMAGE = image(
    layer({"etc": directory(), "etc/name": file("first"), "big": file(BIG)}),
    layer({"etc/name": file("second")}, "none"),
)


def openssl(*arguments: str) -> None:
    require_real(shutil.which("openssl") is not None, "openssl is not installed")
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Encryptor:
    """Encrypts for keys that it makes."""

    folder: Path
    registry: DockerRegistry

    def key(self, name: str, *kind: str) -> str:
        """Make a key pair, and return the public half as skopeo takes it."""
        private, public = self.folder / name, self.folder / f"{name}.pub"
        openssl("genpkey", *kind, "-out", str(private))
        openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
        return f"jwe:{public}"

    def certificate(self, name: str) -> str:
        private, certificate = self.folder / name, self.folder / f"{name}.crt"
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node"),
            *("-keyout", str(private), "-out", str(certificate)),
        )
        return f"pkcs7:{certificate}"

    def push(self, name: str, *recipients: str) -> str:
        layout = self.folder / "layout"
        write_layout(layout, "clear", IMAGE)
        reference = f"{self.registry.host}/{name}"
        keys = [f"--encryption-key={each}" for each in recipients]
        subprocess.run(
            [
                *("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
                *(*keys, f"oci:{layout}:clear", f"docker://{reference}"),
            ],
            check=True,
            capture_output=True,
        )
        return reference


RSA = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


@pytest.fixture(scope="module")
def encryptor(scratch: Scratch, registry: DockerRegistry) -> Encryptor:
    return Encryptor(scratch("encryptor"), registry)


@pytest.fixture
def keys(scratch: Scratch) -> Path:
    return scratch("keys")


@pytest.fixture
def node(scratch: Scratch, keys: Path) -> Iterator[Daemon]:
    require_real(os.geteuid() == 0, "only root can mount and chroot")
    options = f"""
[image.image_decryption]
keys_path = "{keys}"
"""
    with Daemon(scratch("node"), image_options=options) as running:
        yield running


def refusal(node: Daemon, reference: str) -> str:
    with pytest.raises(grpc.RpcError) as error:
        node.pull(reference)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    return str(error.value.details())


def is_whole(node: Daemon, reference: str, at: Path) -> None:
    at.mkdir()
    node.cli("mount", reference, str(at))
    try:
        assert (at / "etc/name").read_text() == "second"
        assert (at / "big").read_bytes() == BIG
    finally:
        node.cli("umount", str(at))


def test_the_right_key_pulls_and_a_wrong_one_or_none_does_not(
    node: Daemon, encryptor: Encryptor, keys: Path, tmp_path: Path
) -> None:
    recipients = [encryptor.key("ours", *RSA), encryptor.key("theirs", *EC)]
    reference = encryptor.push("encrypted:both", *recipients)
    message = refusal(node, reference)
    assert "it is encrypted for jwe (RSA-OAEP, ECDH-ES+A256KW)" in message
    assert f"tried 0 keys in {keys}" in message
    encryptor.key("wrong", *RSA)
    (encryptor.folder / "wrong").rename(keys / "wrong.pem")
    assert f"tried 1 keys in {keys}" in refusal(node, reference)
    for name in ("theirs", "ours"):
        (encryptor.folder / name).rename(keys / name)
        node.pull(reference)
        is_whole(node, reference, tmp_path / name)
        (keys / name).rename(tmp_path / f"{name}.away")
        refusal(node, reference)  # though all of it is here
        node.remove(reference)
    node.cli("check")


def test_what_only_a_certificate_decrypts_is_told(node: Daemon, encryptor: Encryptor) -> None:
    reference = encryptor.push("encrypted:pkcs7", encryptor.certificate("certified"))
    message = refusal(node, reference)
    assert "it is encrypted for pkcs7" in message
    assert "pkcs7 is not supported" in message
