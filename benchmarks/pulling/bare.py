"""The floor under a pull in Python: no safety, no metadata, no confinement.

Reads references from standard input, one a line, and answers each with a line once its layers are
below the directory given: each blob is fetched whole, hashed and written, then one of two
processes inflates, hashes and unpacks it with plain system calls; with `--one-file` it writes the
layer as it is.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isal import igzip_lib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK = 1 << 20
_BLOCK = 512
_ACCEPT = "application/vnd.oci.image.manifest.v1+json"


def inflated(path: str, media_type: str) -> Iterator[bytes]:
    """The layer's uncompressed bytes."""
    with open(path, "rb", buffering=0) as file:
        if not media_type.endswith(("gzip", "zstd")):
            while chunk := file.read(_CHUNK):
                yield chunk
            return
        gzip = media_type.endswith("gzip")
        flag = igzip_lib.DECOMP_GZIP
        decoder: Any = igzip_lib.IgzipDecompressor(flag=flag) if gzip else zstd.ZstdDecompressor()
        while not decoder.eof:
            data = file.read(_CHUNK // 4) if decoder.needs_input else b""
            if out := decoder.decompress(data, _CHUNK):
                yield out


def unpack(path: str, media_type: str, diff_id: str, into: str) -> None:
    """Fill the directory `into`; names are at most 100 bytes, the headers' own."""
    os.umask(0)
    hasher = hashlib.sha256()
    os.makedirs(into)
    held, fd, left, padding = b"", -1, 0, 0
    for chunk in inflated(path, media_type):
        hasher.update(chunk)
        data = memoryview(held + chunk if held else chunk)
        held, at, end = b"", 0, len(data)
        while at < end:
            if left:
                part = data[at : at + left]
                os.write(fd, part)
                left -= len(part)
                at += len(part)
            elif padding:
                step = min(padding, end - at)
                padding -= step
                at += step
            elif end - at < _BLOCK:
                held = bytes(data[at:])
                break
            else:
                block = bytes(data[at : at + _BLOCK])
                at += _BLOCK
                if block[0]:
                    fd, left = _entry(block, into)
                    padding = -left % _BLOCK
            if fd >= 0 and not left:
                os.utime(fd)
                os.close(fd)
                fd = -1
    assert "sha256:" + hasher.hexdigest() == diff_id


def keep(path: str, media_type: str, diff_id: str, into: str) -> None:
    """Write the uncompressed layer into one file, as it is."""
    hasher = hashlib.sha256()
    with open(into, "xb", buffering=0) as out:
        for chunk in inflated(path, media_type):
            hasher.update(chunk)
            out.write(chunk)
    assert "sha256:" + hasher.hexdigest() == diff_id


def _entry(block: bytes, into: str) -> tuple[int, int]:
    """What a header says; of a file, its descriptor and size."""
    path = f"{into}/{block[:100].partition(bytes(1))[0].decode()}"
    mode, size, kind = int(block[100:107], 8), int(block[124:135], 8), block[156:157]
    if kind == b"5":
        os.makedirs(path, mode)
    elif kind == b"2":
        os.symlink(block[157:257].partition(bytes(1))[0], path)
    else:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), size
    return -1, 0


def pull(reference: str, root: Path, workers: Any, unpack: Callable[..., None]) -> None:
    """Fetch the image's layers one after the other, and unpack each as soon as it is whole."""
    host, _, name = reference.partition("/")
    repository, _, tag = name.partition(":")
    registry = http.client.HTTPConnection(host)

    def get(what: str) -> http.client.HTTPResponse:
        registry.request("GET", f"/v2/{repository}/{what}", headers={"Accept": _ACCEPT})
        return registry.getresponse()

    manifest = json.loads(get(f"manifests/{tag}").read())
    config = json.loads(get(f"blobs/{manifest['config']['digest']}").read())
    diff_ids = config["rootfs"]["diff_ids"]
    done = []
    for number, (layer, diff_id) in enumerate(zip(manifest["layers"], diff_ids, strict=True)):
        path = f"{root}/blob{number}"
        hasher = hashlib.sha256()
        with get(f"blobs/{layer['digest']}") as answer, open(path, "wb", buffering=0) as out:
            buffer = memoryview(bytearray(_CHUNK))
            while count := answer.readinto(buffer):
                hasher.update(buffer[:count])
                out.write(buffer[:count])
        assert "sha256:" + hasher.hexdigest() == layer["digest"]
        work = (path, layer["mediaType"], diff_id, f"{root}/layer{number}")
        done.append(workers.apply_async(unpack, work))
    for each in done:
        each.get()


def main() -> None:
    root = Path(sys.argv[1])
    with multiprocessing.Pool(2) as workers:
        for line in sys.stdin:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            if reference := line.strip():
                pull(reference, root, workers, keep if "--one-file" in sys.argv else unpack)
            print("done", flush=True)


if __name__ == "__main__":
    main()
