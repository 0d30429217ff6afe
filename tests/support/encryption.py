"""Encrypted layers, made as ocicrypt makes them, of parts that skopeo does not let one choose."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from tests.support import images
from tests.support.registry import FaultRegistry, Image

JWE = "org.opencontainers.image.enc.keys.jwe"
PROVIDER = "org.opencontainers.image.enc.keys.provider."
PUBLIC = "org.opencontainers.image.enc.pubopts"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Encrypted:
    """A layer, encrypted."""

    blob: bytes
    media_type: str
    private: bytes
    """What is to be wrapped for recipients."""
    annotations: Mapping[str, str]

    def descriptor(self, **more: str) -> dict[str, Any]:
        return {
            **images.descriptor(self.blob, self.media_type),
            "annotations": {**self.annotations, **more},
        }


def encrypt(layer: images.Layer, *, change: bytes = b"", hide: str = "private") -> Encrypted:
    """`change` stands for the begin of the ciphertext once it was authenticated; `hide` says where
    the nonce is."""
    key, nonce = os.urandom(32), os.urandom(16)
    blob = Cipher(algorithms.AES256(key), modes.CTR(nonce)).encryptor().update(layer.blob)
    code = hmac.digest(key, blob, hashlib.sha256)
    options = {"nonce": _b64(nonce)}
    private = {
        "symkey": _b64(key),
        "digest": images.sha256(layer.blob),
        "cipheroptions": options if hide == "private" else {},
    }
    public = {
        "cipher": "AES_256_CTR_HMAC_SHA256",
        "hmac": _b64(code),
        "cipheroptions": options if hide == "public" else {},
    }
    return Encrypted(
        change + blob[len(change) :],
        layer.media_type + "+encrypted",
        json.dumps(private).encode(),
        {PUBLIC: _b64(json.dumps(public).encode())},
    )


@dataclass(frozen=True)
class Recipient:
    """Whoever has a private key."""

    algorithm: str
    key: Any
    """joserfc's."""

    def wrap(self, private: bytes) -> str:
        """The value of the JWE annotation."""
        document = jwe.FlattenedJSONEncryption({"enc": "A256GCM"}, private)
        document.add_recipient({"alg": self.algorithm}, self.key)
        found = jwe.encrypt_json(document, None, algorithms=[self.algorithm, "A256GCM"])
        return _b64(json.dumps(found).encode())


def recipient(folder: Path, name: str, kind: str = "rsa", pass_phrase: str = "") -> Recipient:
    """Make a key, and put its private half into a folder."""
    key: Any = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    encryption: Any = (
        serialization.BestAvailableEncryption(pass_phrase.encode())
        if pass_phrase
        else serialization.NoEncryption()
    )
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if kind == "rsa":
        return Recipient("RSA-OAEP", RSAKey.import_key(public))
    return Recipient("ECDH-ES+A256KW", ECKey.import_key(public))


def serve(
    registry: FaultRegistry,
    repository: str,
    tag: str,
    image: images.Image,
    layers: Sequence[tuple[bytes, dict[str, Any]]],
) -> Image:
    """Serve an image with these blobs and descriptors for its layers."""
    config = registry.add_blob(image.config, images.CONFIG)
    blobs = tuple(registry.add_blob(blob, said["mediaType"]) for blob, said in layers)
    document = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": images.MANIFEST,
            "config": images.descriptor(image.config, images.CONFIG),
            "layers": [said for _, said in layers],
        }
    ).encode()
    manifest = registry.add_manifest(repository, tag, images.MANIFEST, document)
    return Image(manifest, config, blobs, document)
