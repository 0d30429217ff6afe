"""Many tiny images in a registry, each with a repository, a layer and a config of its own."""

from __future__ import annotations

import http.client
from collections.abc import Sequence

from tests.support.images import MANIFEST, Image, file, image, layer, sha256


def tiny(count: int) -> list[Image]:
    return [image(layer({"etc/name": file(f"image {number}\n")})) for number in range(count)]


def push(host: str, images: Sequence[Image]) -> list[str]:
    """Push each as `HOST/tiny/imageN:1`; returns these names."""
    registry = http.client.HTTPConnection(host)
    for number, each in enumerate(images):
        repository = f"/v2/tiny/image{number}"
        for blob in (each.layers[0].blob, each.config):
            place = _asked(registry, "POST", f"{repository}/blobs/uploads/").headers["Location"]
            mark = "&" if "?" in place else "?"
            _asked(registry, "PUT", f"{place}{mark}digest={sha256(blob)}", blob)
        _asked(registry, "PUT", f"{repository}/manifests/1", each.manifest)
    registry.close()
    return [f"{host}/tiny/image{number}:1" for number in range(len(images))]


def _asked(
    registry: http.client.HTTPConnection, method: str, path: str, body: bytes = b""
) -> http.client.HTTPResponse:
    registry.request(method, path, body, {"Content-Type": MANIFEST} if body else {})
    answer = registry.getresponse()
    told = answer.read()
    assert answer.status < 300, f"{method} {path}: {answer.status} {told!r}"
    return answer
