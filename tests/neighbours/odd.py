"""Registries, documents and layers that are not as they should be: one of each row of the tests of
what is borne with."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.neighbours.honest import serve
from tests.support.images import (
    CONFIG,
    MANIFEST,
    Layer,
    descriptor,
    file,
    image,
    layer,
    sha256,
    with_wrong_diff_id,
)
from tests.support.registry import BLOB, Fault, FaultRegistry, cut, status
from tests.support.registry import MANIFEST as OF_MANIFEST

Document = dict[str, Any]
_LINK_LOCAL = "http://169.254.169.254"


def own() -> Layer:
    """A layer that nobody else has."""
    return layer({"own": file(bytes(range(256)) * 4096)})


FAULTS: dict[str, Sequence[Fault]] = {
    "504 without end": [status(504)],
    "manifests that are not found": [status(404, where=OF_MANIFEST)],
    "HEAD refused": [status(405, method="HEAD")],
    "a realm that no registry may name": [
        status(401, headers={"WWW-Authenticate": f'Bearer realm="{_LINK_LOCAL}/token"'})
    ],
    "redirects to addresses of this node": [
        status(307, headers={"Location": f"{_LINK_LOCAL}/blob"}, where=BLOB)
    ],
    "digests that are wrong in headers": [Fault(headers={"Docker-Content-Digest": sha256(b"")})],
    "bodies of no length": [Fault(no_length=True)],
    "ranges of another place": [cut(1000, where=BLOB, content_range="bytes 7-9/10")],
}
"""What a registry does in answer to each request."""

_DOCUMENTS: dict[str, Callable[[Document], object]] = {
    "a digest that is a path": lambda d: d["layers"][0].update(digest="sha256:../../victim"),
    "an empty digest": lambda d: d["layers"][0].update(digest=""),
    "a digest in upper case": lambda d: d["layers"][0].update(digest="sha256:" + "A" * 64),
    "an unknown algorithm": lambda d: d["layers"][0].update(digest="md5:" + "0" * 32),
    "too short a size": lambda d: d["layers"][0].update(size=10),
    "too long a size": lambda d: d["layers"][0].update(size=1 << 40),
    "a negative size": lambda d: d["layers"][0].update(size=-1),
    "fields of an index": lambda d: d.update(manifests=[]),
    "fewer layers than diffIDs": lambda d: d["layers"].clear(),
    "more layers than diffIDs": lambda d: d["layers"].extend(d["layers"]),
    "an unknown type of layer": lambda d: d["layers"][0].update(mediaType="application/x-odd"),
    "a foreign layer of this node": lambda d: d["layers"][0].update(urls=[f"{_LINK_LOCAL}/blob"]),
    "annotations of a snapshotter": lambda d: d["layers"][0].update(
        annotations={"containerd.io/snapshot/overlay.upperdir": "/"}
    ),
    "a config that is a layer": lambda d: d.update(config=d["layers"][0]),
    "no manifest": lambda d: d.clear(),
}


def odd_documents(registry: FaultRegistry) -> Sequence[str]:
    """Manifests that lie or contradict themselves."""
    pulls = []
    for number, change in enumerate(_DOCUMENTS.values()):
        served = image(own(), Env=[f"N={number}"])
        serve(registry, f"document/{number}", served)
        document = json.loads(served.manifest)
        change(document)
        registry.add_manifest(f"document/{number}", "1", MANIFEST, json.dumps(document).encode())
        pulls.append(f"{registry.authority}/document/{number}:1")
    return pulls


def large_config(registry: FaultRegistry) -> Sequence[str]:
    """Configs over the limit, that say so and that do not."""
    config = image(own()).config[:-1] + b" " * (9 << 20) + b"}"
    registry.add_blob(config)
    pulls = []
    for number, size in enumerate((len(config), 1000)):
        listed = descriptor(config, CONFIG) | {"size": size}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": listed, "layers": []}
        registry.add_manifest(f"config/{number}", "1", MANIFEST, json.dumps(document).encode())
        pulls.append(f"{registry.authority}/config/{number}:1")
    return pulls


def odd_layers(registry: FaultRegistry) -> Sequence[str]:
    """Layers whose compression or diffID is wrong, and some that are odd and good."""
    good, other = own(), layer({"own": file("zstd")}, "zstd")
    odd = [
        replace(good, blob=good.blob[:-100]),
        replace(good, blob=good.blob[:-8]),
        replace(good, blob=good.blob[:-8] + bytes(8)),
        replace(other, blob=other.blob[:-4]),
        replace(other, blob=other.blob + b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip"),
        replace(good, blob=good.blob + b"what is no member"),
        with_wrong_diff_id(good),
    ]
    return [serve(registry, f"layer/{n}", image(each)) for n, each in enumerate(odd)]


def no_layers(registry: FaultRegistry) -> Sequence[str]:
    """Images of nothing, of empty layers, and of one layer many times."""
    images = [image(), image(*[layer({})] * 3), image(*[own()] * 30)]
    return [serve(registry, f"few/{n}", each) for n, each in enumerate(images)]


def unreachable(registry: FaultRegistry) -> Sequence[str]:
    """Registries that refuse the connection, and names that are none or far too long."""
    seen = serve(registry, "seen", image(own()))
    names = [f"{registry.authority}/{'a/' * 100_000}a:1", f"{registry.authority}/a:{'1' * 5000}"]
    return [seen, *(f"127.0.0.1:1/refused/{n}:1" for n in range(20)), *names]


ODD: dict[str, Callable[[FaultRegistry], Sequence[str]]] = {
    "documents that contradict themselves": odd_documents,
    "configs over the limit": large_config,
    "layers that are cut off or false": odd_layers,
    "images of hardly anything": no_layers,
    "registries that cannot be reached": unreachable,
}
