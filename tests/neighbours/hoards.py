"""What makes the daemon hold memory, or work on what it was sent, for as long as it lasts."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence

from tests.neighbours.crowds import MANY, SLOW
from tests.neighbours.honest import serve
from tests.support.images import (
    CONFIG,
    LAYER,
    MANIFEST,
    Layer,
    descriptor,
    file,
    image,
    layer,
    sha256,
)
from tests.support.registry import BLOB, TOKEN, BearerAuth, Fault, FaultRegistry, stall
from tests.support.registry import MANIFEST as OF_MANIFEST


def costly_documents(registry: FaultRegistry) -> Sequence[str]:
    """Manifests and configs that are costly to decode in every way that we know, and held while a
    layer comes slowly."""
    slow = layer({"f": file(os.urandom(300_000))})
    registry.faults.append(Fault(where=BLOB, reference=sha256(slow.blob), **SLOW))
    registry.add_blob(slow.blob)
    notes = {f"{n}": "a" for n in range(180_000)}
    urls = ["a"] * 350_000
    fill = [
        b'"x":' + b"[" * 4_000_000 + b"]" * 3_000_000,
        b'"author":"\\ud800' + b"\\n" * 3_500_000 + b'"',
        b'"author":"\xf0\x9f\x98\x80' + b"\xff" * 7_000_000 + b'"',
        b'"x":[' + b"{}," * 2_500_000 + b"{}]",
    ]
    pulls = []
    for number, (more, extra) in enumerate(itertools.product(({}, notes, urls), fill)):
        config = image(slow, Env=[str(number)]).config[:-1] + b"," + extra + b"}"
        listed = descriptor(slow.blob, slow.media_type)
        listed |= {"annotations": more} if isinstance(more, dict) else {"urls": more}
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(config, CONFIG),
            "layers": [listed],
        }
        registry.add_blob(config)
        registry.add_manifest(f"costly/{number}", "1", MANIFEST, json.dumps(document).encode())
        pulls.append(f"{registry.authority}/costly/{number}:1")
    return pulls


def costly_answers(registry: FaultRegistry) -> Sequence[str]:
    """As costly, in answer to the reference: read before anybody knows what it is."""
    for number in range(MANY):
        own = b'{"schemaVersion":2,"config":{},"x":"%d\\ud800' % number
        registry.add_manifest("costly", str(number), MANIFEST, own + b"\\n" * 2_000_000 + b'"}')
    return [f"{registry.authority}/costly:{number}" for number in range(MANY)]


def unended_answers(registry: FaultRegistry) -> Sequence[str]:
    """Manifests as large as they may be, but for the last bytes."""
    large = b'{"schemaVersion":2,"x":"' + b"x" * 4_000_000 + b'"}'
    registry.faults.append(stall(len(large) - 100, where=OF_MANIFEST))
    for number in range(MANY):
        registry.add_manifest("large", str(number), MANIFEST, large)
    return [f"{registry.authority}/large:{number}" for number in range(MANY)]


def costly_tokens(registry: FaultRegistry) -> Sequence[str]:
    """Answers of a token server as large as they may be."""
    registry.auth = BearerAuth()
    token = b'{"token":"a","x":"\\ud800' + b"\\n" * 125_000 + b'"}'
    registry.faults.append(Fault(where=TOKEN, body=token))
    return [serve(registry, f"token/{n}", image(layer({"f": file(f"{n}")}))) for n in range(MANY)]


def unended_tokens(registry: FaultRegistry) -> Sequence[str]:
    """The same, but for the last bytes."""
    pulls = costly_tokens(registry)
    registry.faults = [stall(250_000, where=TOKEN, body=registry.faults[0].body)]
    return pulls


def large_heads(registry: FaultRegistry) -> Sequence[str]:
    """Header fields as many and long as they may be, in front of what comes slowly."""
    heads = {f"x{number}": "x" * 7000 for number in range(8)}
    registry.faults.append(Fault(where=BLOB, headers=heads, **SLOW))
    pulls = []
    for number in range(MANY):
        layers = [layer({"f": file(os.urandom(100_000))}) for _ in range(3)]
        pulls.append(serve(registry, f"heads/{number}", image(*layers)))
    return pulls


def many_layers(registry: FaultRegistry) -> Sequence[str]:
    """As many layers as an image may have, none of which ever comes."""
    registry.faults.append(Fault(where=BLOB, **SLOW))
    pulls = []
    for number in range(MANY):
        blobs = [Layer(b"%d %d" % (number, k) * 1000, LAYER, sha256(b"%d" % k)) for k in range(510)]
        served = image(*blobs)
        registry.add_blob(served.config)
        registry.add_manifest(f"many/{number}", "1", MANIFEST, served.manifest)
        for each in blobs:
            registry.blobs[sha256(each.blob)] = each.blob
        pulls.append(f"{registry.authority}/many/{number}:1")
    return pulls


def quick_layers(registry: FaultRegistry) -> Sequence[str]:
    """Large layers, sent faster than a disk takes them."""
    blobs = [Layer(bytes([k]) * (32 << 20), LAYER, sha256(b"%d" % k)) for k in range(9)]
    return [
        serve(registry, f"quick/{n}", image(blobs[n % 9], blobs[(n + 1) % 9], blobs[(n + 2) % 9]))
        for n in range(9)
    ]


HOARDS: dict[str, Callable[[FaultRegistry], Sequence[str]]] = {
    "documents that are costly to decode": costly_documents,
    "answers that are costly to decode": costly_answers,
    "answers that never end": unended_answers,
    "tokens that are costly to decode": costly_tokens,
    "tokens that never end": unended_tokens,
    "large heads of slow blobs": large_heads,
    "many layers that never come": many_layers,
    "large layers at full speed": quick_layers,
}
