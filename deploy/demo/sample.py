"""A sample image, made on the spot: two layers, two platforms, and a program that says hello."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

GREETING = "hello from a program of the image\n"
DATA_BYTES = 32 << 20
"""Of a file that does not compress, so that a pull has something to do."""


@dataclass(frozen=True)
class Sample:
    """What a registry serves: documents and blobs by digest, and the index that the tag names."""

    blobs: Mapping[str, bytes]
    media_types: Mapping[str, str]
    """Of the manifests and the index."""
    index: str
    """Digest."""


def make_sample() -> Sample:
    """An index of linux/amd64 and linux/arm64, and this machine's platform where it is another
    (without the program then)."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    blobs: dict[str, bytes] = {}
    media_types: dict[str, str] = {}

    def put(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[digest] = data
        if media_type in (MANIFEST, INDEX):
            media_types[digest] = media_type
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    base = _archive(
        {
            "etc/os-release": (b'NAME="Sample"\nPRETTY_NAME="cri-imaged sample image"\n', 0o644),
            "etc/motd": (b"hidden by the layer above\n", 0o644),
            "srv/data": (os.urandom(DATA_BYTES), 0o644),
        }
    )
    manifests = []
    for architecture in sorted({"amd64", "arm64", machine}):
        files = {"etc/.wh.motd": (b"", 0o644)}
        if architecture in _PROGRAMS:
            files["bin/hello"] = (hello(architecture), 0o755)
        archives = [base, _archive(files)]
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/hello"], "User": "1000"},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in archives],
            },
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put(json.dumps(config).encode(), CONFIG),
            "layers": [
                put(gzip.compress(each, compresslevel=1, mtime=0), LAYER) for each in archives
            ],
        }
        described = {"architecture": architecture, "os": "linux"}
        manifests.append(put(json.dumps(manifest).encode(), MANIFEST, platform=described))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    top: str = put(json.dumps(index).encode(), INDEX)["digest"]
    return Sample(blobs, media_types, top)


def _archive(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (data, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# --- a program without a compiler -----------------------------------------------------------

_HEADERS = 64 + 56
_LOAD = 0x400000


def hello(architecture: str) -> bytes:
    """A static ELF executable that writes GREETING and exits with 0."""
    machine, code = _PROGRAMS[architecture]
    message = GREETING.encode()
    size = _HEADERS + len(code) + len(message)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, machine, 1, _LOAD + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD, _LOAD, size, size, 0x10000)
    return header + segment + code + message


def _amd64() -> bytes:
    to_message = 16  # from the end of the lea instruction to the end of the code
    return b"".join(
        (
            b"\xb8\x01\x00\x00\x00",  # mov eax, 1 (write)
            b"\xbf\x01\x00\x00\x00",  # mov edi, 1
            b"\x48\x8d\x35" + struct.pack("<i", to_message),  # lea rsi, [rip + message]
            b"\xba" + struct.pack("<I", len(GREETING)),  # mov edx, length
            b"\x0f\x05",  # syscall
            b"\xb8\x3c\x00\x00\x00",  # mov eax, 60 (exit)
            b"\x31\xff",  # xor edi, edi
            b"\x0f\x05",  # syscall
        )
    )


def _arm64() -> bytes:
    to_message = 7 * 4  # from the adr instruction to the end of the code
    return struct.pack(
        "<8I",
        0xD2800020,  # mov x0, 1
        0x10000001 | (to_message // 4) << 5,  # adr x1, message
        0xD2800002 | len(GREETING) << 5,  # mov x2, length
        0xD2800808,  # mov x8, 64 (write)
        0xD4000001,  # svc 0
        0xD2800000,  # mov x0, 0
        0xD2800BA8,  # mov x8, 93 (exit)
        0xD4000001,  # svc 0
    )


_PROGRAMS = {"amd64": (62, _amd64()), "arm64": (183, _arm64())}
"""(ELF machine number, code) by architecture."""
