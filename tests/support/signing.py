"""Signatures of images, made and attached as cosign does, with keys of all kinds that it has."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from tests.support import images
from tests.support.registry import FaultRegistry

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
EMPTY = "application/vnd.oci.empty.v1+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"


@dataclass(frozen=True)
class Signer:
    """A key pair; the public half is in a file."""

    file: Path
    sign: Callable[[bytes], bytes]


def signer(folder: Path, name: str, kind: str = "p256") -> Signer:
    private, sign = _KINDS[kind]()
    file = folder / f"{name}.pub"
    file.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return Signer(file, sign)


def _ecdsa(curve: ec.EllipticCurve) -> Any:
    key = ec.generate_private_key(curve)
    return key, lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))


def _rsa() -> Any:
    key = rsa.generate_private_key(65537, 2048)
    return key, lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def _ed25519() -> Any:
    key = ed25519.Ed25519PrivateKey.generate()
    return key, key.sign


_KINDS: dict[str, Callable[[], Any]] = {
    "p256": lambda: _ecdsa(ec.SECP256R1()),
    "p384": lambda: _ecdsa(ec.SECP384R1()),
    "rsa": _rsa,
    "ed25519": _ed25519,
}
KINDS = tuple(_KINDS)


def payload(digest: str, repository: str = "registry.example/any") -> bytes:
    """The simple signing format's."""
    critical = {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def signature_manifest(*signed: tuple[bytes, bytes]) -> tuple[bytes, list[bytes]]:
    """A manifest of payloads and their signatures, and its blobs."""
    config = b'{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}'
    layers = []
    for data, signature in signed:
        notes = {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}
        layers.append({**images.descriptor(data, SIMPLE_SIGNING), "annotations": notes})
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": images.descriptor(config, images.CONFIG),
        "layers": layers,
    }
    return json.dumps(manifest).encode(), [config, *(data for data, _ in signed)]


def signature_tag(digest: str) -> str:
    """Where cosign looks for it."""
    return digest.replace(":", "-") + ".sig"


def attach(
    registry: FaultRegistry, repository: str, digest: str, *signed: tuple[bytes, bytes]
) -> None:
    """Serve payloads and their signatures under the tag that cosign looks under."""
    manifest, blobs = signature_manifest(*signed)
    for blob in blobs:
        registry.add_blob(blob)
    registry.add_manifest(repository, signature_tag(digest), images.MANIFEST, manifest)


def sign(registry: FaultRegistry, repository: str, digest: str, by: Signer) -> None:
    """Sign an image in the simple signing format."""
    data = payload(digest)
    attach(registry, repository, digest, (data, by.sign(data)))


def bundle(digest: str, by: Signer, predicate: str = SIGNED) -> bytes:
    """A sigstore bundle of an in-toto statement about the image."""
    algorithm, _, hexadecimal = digest.partition(":")
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {algorithm: hexadecimal}}],
        "predicateType": predicate,
        "predicate": {},
    }
    body = json.dumps(statement).encode()
    kind = "application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(body), body)
    envelope = {
        "payload": base64.b64encode(body).decode(),
        "payloadType": kind,
        "signatures": [{"sig": base64.b64encode(by.sign(signed)).decode()}],
    }
    material = {"publicKey": {"hint": "key"}, "tlogEntries": []}
    document = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(document).encode()


def bundle_manifest(digest: str, data: bytes) -> bytes:
    """A manifest that attaches a bundle to an image. Its blobs are the bundle and `{}`."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "artifactType": BUNDLE,
        "config": images.descriptor(b"{}", EMPTY),
        "layers": [images.descriptor(data, BUNDLE)],
        "subject": {"mediaType": images.MANIFEST, "digest": digest, "size": 1},
    }
    return json.dumps(manifest).encode()


def referrers_index(*manifests: bytes) -> bytes:
    """Such manifests as the tag that stands for the registry's list has them."""
    entries = [entry(each) for each in manifests]
    document = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": entries}
    return json.dumps(document).encode()


def entry(manifest: bytes) -> dict[str, object]:
    return {**images.descriptor(manifest, images.MANIFEST), "artifactType": BUNDLE}


def refer(registry: FaultRegistry, repository: str, digest: str, data: bytes) -> bytes:
    """Serve a manifest that attaches a bundle to an image."""
    registry.add_blob(data)
    registry.add_blob(b"{}")
    manifest = bundle_manifest(digest, data)
    registry.add_manifest(repository, None, images.MANIFEST, manifest)
    return manifest


def list_referrers(
    registry: FaultRegistry, repository: str, digest: str, *manifests: bytes
) -> None:
    """Have the endpoint list these."""
    listed = {(repository, digest): [entry(each) for each in manifests]}
    registry.referrers = {**(registry.referrers or {}), **listed}


def tag_referrers(registry: FaultRegistry, repository: str, digest: str, *manifests: bytes) -> None:
    """List these under the tag that stands for the endpoint."""
    tag = digest.replace(":", "-")
    registry.add_manifest(repository, tag, images.INDEX, referrers_index(*manifests))
