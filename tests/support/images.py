"""OCI images made of plain values, written as OCI layouts for registries and tools to take.

`image(layer({"etc/hostname": file("here")}))` is an image; `write_layout` puts images on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TIME = 1_600_000_000

Compression = Literal["gzip", "zstd", "none"]


def host_architecture() -> str:
    """This machine's architecture as images name it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# --- layers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """One entry of a layer, without its path."""

    type: bytes = tarfile.REGTYPE
    data: bytes = b""
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = TIME
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)
    """Major and minor number."""


Tree = Mapping[str, Node]


def file(data: bytes | str, mode: int = 0o644, **attributes: Any) -> Node:
    content = data.encode() if isinstance(data, str) else data
    return Node(data=content, mode=mode, **attributes)


def directory(mode: int = 0o755, **attributes: Any) -> Node:
    return Node(type=tarfile.DIRTYPE, mode=mode, **attributes)


def symlink(target: str, **attributes: Any) -> Node:
    return Node(type=tarfile.SYMTYPE, target=target, mode=0o777, **attributes)


def hardlink(target: str, **attributes: Any) -> Node:
    return Node(type=tarfile.LNKTYPE, target=target, **attributes)


WHITEOUT = Node()
"""An empty file, to be named `.wh.<name>` or `.wh..wh..opq`."""


@dataclass(frozen=True)
class Layer:
    """A layer's blob, and the diffID that the image's config claims for it."""

    blob: bytes
    media_type: str
    diff_id: str
    annotations: Mapping[str, str] = field(default_factory=dict)


def archive(tree: Tree) -> bytes:
    """`tree` as an uncompressed PAX archive, in the mapping's order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, node in tree.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = node.type, len(node.data), node.target
            info.mode, info.uid, info.gid, info.mtime = node.mode, node.uid, node.gid, node.mtime
            info.devmajor, info.devminor = node.device
            info.pax_headers = {
                f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
                for key, value in node.xattrs.items()
            }
            tar.addfile(info, io.BytesIO(node.data))
    return buffer.getvalue()


def layer(content: Tree | bytes, compression: Compression = "gzip") -> Layer:
    """A layer from a tree or from a whole archive."""
    tar = content if isinstance(content, bytes) else archive(content)
    match compression:
        case "gzip":
            blob, suffix = gzip.compress(tar, compresslevel=1, mtime=0), "+gzip"
        case "zstd":
            blob, suffix = zstd.compress(tar), "+zstd"
        case "none":
            blob, suffix = tar, ""
    return Layer(blob, LAYER + suffix, sha256(tar))


def with_wrong_diff_id(good: Layer) -> Layer:
    """A layer about whose content the image's config will lie."""
    return replace(good, diff_id=sha256(b"something else"))


# --- images ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """One platform's image."""

    layers: tuple[Layer, ...]
    process: Mapping[str, Any] = field(default_factory=dict)
    """The config's `config`: Cmd, Env, User and so on, spelt as there."""
    architecture: str = field(default_factory=host_architecture)
    variant: str = ""
    created: str = ""

    @property
    def config(self) -> bytes:
        document = {
            "architecture": self.architecture,
            **({"variant": self.variant} if self.variant else {}),
            **({"created": self.created} if self.created else {}),
            "os": "linux",
            "config": dict(self.process),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
        }
        return json.dumps(document).encode()

    @property
    def id(self) -> str:
        """The digest of the config."""
        return sha256(self.config)

    @property
    def manifest(self) -> bytes:
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor(self.config, CONFIG),
                "layers": [
                    descriptor(layer.blob, layer.media_type)
                    | ({"annotations": dict(layer.annotations)} if layer.annotations else {})
                    for layer in self.layers
                ],
            }
        ).encode()

    @property
    def chain_id(self) -> str:
        """The chainID of the whole stack (OCI image spec, "Layer ChainID")."""
        first, *rest = (layer.diff_id for layer in self.layers)
        chain = first
        for diff_id in rest:
            chain = sha256(f"{chain} {diff_id}".encode())
        return chain

    @property
    def size(self) -> int:
        """Compressed: manifest, config and layers, as CRI reports an image without an index."""
        blobs = [layer.blob for layer in self.layers]
        return len(self.manifest) + len(self.config) + sum(map(len, blobs))


def image(*layers: Layer, **process: Any) -> Image:
    """An image for this machine's platform; keywords go to the config's `config`."""
    return Image(layers, process)


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def write_layout(directory: Path, name: str, *images: Image) -> Path:
    """Write an OCI layout with `name` in its index: the one image, or an index of them all.

    Returns the directory, which may hold a layout already.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes) -> None:
        (blobs / sha256(data).removeprefix("sha256:")).write_bytes(data)

    manifests = []
    for each in images:
        for data in (*(layer.blob for layer in each.layers), each.config, each.manifest):
            put(data)
        described = {
            "architecture": each.architecture,
            "os": "linux",
            **({"variant": each.variant} if each.variant else {}),
        }
        manifests.append(descriptor(each.manifest, MANIFEST, platform=described))
    if len(images) == 1:
        top = manifests[0]
    else:
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        put(index.encode())
        top = descriptor(index.encode(), INDEX)
    write_index_entry(directory, top, name)
    return directory


def write_index_entry(directory: Path, top: Mapping[str, Any], name: str) -> None:
    """Let an OCI layout know what `top` describes as `name`."""
    entry = {**top, "annotations": {"org.opencontainers.image.ref.name": name}}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    path = directory / "index.json"
    present: Sequence[Any] = json.loads(path.read_text())["manifests"] if path.exists() else []
    others = [each for each in present if each["annotations"] != entry["annotations"]]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*others, entry]}
    path.write_text(json.dumps(document))


def random_bytes(size: int) -> bytes:
    """Content that compression does not make smaller."""
    return os.urandom(size)
