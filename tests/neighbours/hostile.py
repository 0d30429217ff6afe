"""Every hostile behaviour that the tests know, each served by a process of its own.

A new one joins by a line in `HOSTILE`: a name, and a function that prepares the registry and
returns what is pulled from it.

    python -m tests.neighbours.hostile NAME     serves until its standard input ends
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tests.layers.hostile import CASES
from tests.neighbours.crowds import ADDRESSES, CROWDS, SLOW, racing_registries
from tests.neighbours.floods import FLOODS
from tests.neighbours.hoards import HOARDS
from tests.neighbours.honest import honest, serve
from tests.neighbours.odd import FAULTS, ODD, own
from tests.support import tarballs
from tests.support.bombs import BOMBS
from tests.support.images import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Layer,
    descriptor,
    directory,
    file,
    image,
    layer,
    sha256,
)
from tests.support.registry import (
    BLOB,
    Fault,
    FaultRegistry,
    corrupt,
    cut,
    redirect,
    reset,
    stall,
    status,
)
from tests.support.registry import (
    MANIFEST as OF_MANIFEST,
)

NAME_SERVER = "127.0.0.99"
"""The only one that the daemon knows."""
_FLOOD_PAUSE = 0.001
_ARCHIVES_AT_ONCE = 8

Pulls = Sequence[str]
Prepare = Callable[[FaultRegistry], Pulls]


def faulty(*faults: Fault) -> Prepare:
    """A registry that fails so, with an image like any other."""

    def prepare(registry: FaultRegistry) -> Pulls:
        registry.faults.extend(faults)
        return [serve(registry, f"faulty/{n}", image(own(), Env=[f"N={n}"])) for n in range(3)]

    return prepare


def bomb(name: str) -> Prepare:
    media_type, pieces, _ = BOMBS[name]

    def prepare(registry: FaultRegistry) -> Pulls:
        blob = Layer(b"".join(pieces()), media_type, sha256(name.encode()))
        return [serve(registry, "bomb", image(blob))]

    return prepare


def archives(names: Sequence[str]) -> Prepare:
    def prepare(registry: FaultRegistry) -> Pulls:
        return [
            serve(registry, f"odd/{number}", image(layer(CASES[name].build("/nonexistent/victim"))))
            for number, name in enumerate(names)
        ]

    return prepare


def slow_diff_id(registry: FaultRegistry) -> Pulls:
    """An honest layer's diffID, with a blob of its own that never ends."""
    slow = tarballs.header("f", size=40_000_000) + bytes(1 << 20)
    base = Layer(slow, LAYER, honest().layers[0].diff_id)
    registry.faults.append(Fault(where=BLOB, reference=sha256(slow), **SLOW))
    return [serve(registry, "hostage", image(base))]


def slow_below(registry: FaultRegistry) -> Pulls:
    """An honest layer, over one of the hostile image's own that never comes."""
    [pull] = slow_diff_id(registry)
    slow = tarballs.header("f", size=40_000_000) + bytes(1 << 20)
    base = Layer(slow, LAYER, honest().layers[0].diff_id)
    return [pull, serve(registry, "below", image(base, honest().layers[1]))]


def slow_beside(registry: FaultRegistry) -> Pulls:
    """An honest layer, beside more slow ones than one pull may unpack at a time."""
    slow = layer({"f": file(os.urandom(4 << 20))})
    registry.faults.append(Fault(where=BLOB, reference=sha256(slow.blob), **SLOW))
    return [serve(registry, "beside", image(honest().layers[0], *[slow] * 12))]


def slow_blob(registry: FaultRegistry) -> Pulls:
    """An honest layer's blob, from a host that has hardly begun."""
    base = honest().layers[0]
    registry.faults.append(Fault(where=BLOB, reference=sha256(base.blob), **SLOW))
    return [serve(registry, "hostage", image(base))]


def false_size(registry: FaultRegistry) -> Pulls:
    """An honest layer's digest with another size, slowly."""
    base = honest().layers[0]
    blob = sha256(base.blob)
    document = json.loads(image(base).manifest)
    document["layers"][0]["size"] += 1_000_000
    registry.faults.append(Fault(where=BLOB, reference=blob, **SLOW))
    registry.add_blob(base.blob)
    registry.add_blob(image(base).config)
    registry.add_manifest("hostage", "1", MANIFEST, json.dumps(document).encode())
    return [f"{registry.authority}/hostage:1"]


def wrong_bytes_of_an_honest_blob(registry: FaultRegistry) -> Pulls:
    base = honest().layers[0]
    wrong = corrupt(where=BLOB, reference=sha256(base.blob))
    registry.faults.append(replace(wrong, **SLOW))
    return [serve(registry, "hostage", image(base))]


def layer_as_a_manifest(registry: FaultRegistry) -> Pulls:
    """An honest layer, listed as a manifest: it is asked for where no layer is."""
    base = honest().layers[0]
    registry.faults.append(Fault(where=OF_MANIFEST, reference=sha256(base.blob), **SLOW))
    registry.add_manifest("hostage", None, MANIFEST, base.blob)
    entries = [descriptor(base.blob, MANIFEST)]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    registry.add_manifest("hostage", "1", INDEX, json.dumps(document).encode())
    return [f"{registry.authority}/hostage:1"]


def wrong_bytes_again_and_again(registry: FaultRegistry) -> Pulls:
    """An honest blob with wrong bytes from a dozen registries, as fast as they can."""
    registry.faults.append(corrupt(where=BLOB, reference=sha256(honest().layers[0].blob)))
    return racing_registries(registry, slowly=False)


def waiting_whiteouts(registry: FaultRegistry) -> Pulls:
    """A slow bottom layer, and over it many small ones that leave much to be done above it."""
    bottom = layer({"bottom": file(os.urandom(300_000))})
    deep = "/".join(["d" * 250] * 15)
    hides = layer(
        tarballs.archive(*[tarballs.file(f"{deep}/.wh.{number:05d}") for number in range(8_000)])
    )
    registry.faults.append(Fault(where=BLOB, reference=sha256(bottom.blob), **SLOW))
    return [serve(registry, "whiteouts", image(bottom, *[hides] * 30))]


def large_documents(registry: FaultRegistry) -> Pulls:
    """Configs that are small on the wire and large as objects, held while a layer comes slowly."""
    slow = layer({"f": file(os.urandom(300_000))})
    registry.faults.append(Fault(where=BLOB, reference=sha256(slow.blob), **SLOW))
    return [
        serve(registry, f"large/{n}", image(slow, Labels={f"{n}.{i}": "" for i in range(300_000)}))
        for n in range(6)
    ]


def deep_index(registry: FaultRegistry) -> Pulls:
    inner = serve(registry, "deep", image(own())).partition("/")[2]
    document = registry.manifests[inner.partition(":")[0], "1"][1]
    entry = descriptor(document, MANIFEST)
    for _ in range(10):
        outer = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
        registry.add_manifest("deep", "1", INDEX, outer)
        entry = descriptor(outer, INDEX)
    return [f"{registry.authority}/deep:1"]


def wide_index(registry: FaultRegistry) -> Pulls:
    entries = [
        {"mediaType": MANIFEST, "digest": sha256(b"%d" % number), "size": 1}
        for number in range(30_000)
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    registry.add_manifest("wide", "1", INDEX, json.dumps(document).encode())
    return [f"{registry.authority}/wide:1"]


def nested_config(registry: FaultRegistry) -> Pulls:
    config = b'{"a":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}"
    registry.add_blob(config)
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [],
    }
    registry.add_manifest("nested", "1", MANIFEST, json.dumps(document).encode())
    return [f"{registry.authority}/nested:1"]


def many_directories(registry: FaultRegistry) -> Pulls:
    """A seal as expensive as the limits let it be."""
    lower = {f"d{n}": directory() for n in range(20_000)}
    upper = {f"d{n}/f": file("") for n in range(20_000)}
    return [
        serve(registry, f"wide/{k}", image(layer(lower), layer({**upper, f"{k}": file("")})))
        for k in range(4)
    ]


def flood(name: str) -> Prepare:
    """Answers every request with a flood, at a port beside the registry's."""

    def prepare(registry: FaultRegistry) -> Pulls:
        return [f"flood/{number}:1" for number in range(3)]

    prepare.__name__ = name
    return prepare


def unanswered_names(registry: FaultRegistry) -> Pulls:
    """Registries by names that are asked for and never answered."""
    return [f"r{number}.blackhole.example/a:1" for number in range(40)]


HOSTILE: dict[str, Prepare] = {
    "429 without end": faulty(status(429, headers={"Retry-After": "60"})),
    "503 without end": faulty(status(503)),
    "401 without end": faulty(status(401, headers={"WWW-Authenticate": 'Basic realm="a"'})),
    "blobs that are forbidden": faulty(status(403, where=BLOB)),
    "redirects in a circle": faulty(redirect("/v2/faulty/0/manifests/1", where=OF_MANIFEST)),
    "resets before the headers": faulty(reset(-1)),
    "resets in mid-blob": faulty(reset(1000, where=BLOB)),
    "cuts in mid-blob": faulty(cut(1000, where=BLOB)),
    "silence before the headers": faulty(stall(-1)),
    "silence in mid-blob": faulty(stall(1000, where=BLOB)),
    "a trickle": faulty(Fault(where=BLOB, **SLOW)),
    "a trickle under the minimum rate": faulty(Fault(where=BLOB, pace=1, piece=100)),
    "wrong bytes": faulty(corrupt(where=BLOB)),
    "wrong manifests": faulty(corrupt(where=OF_MANIFEST)),
    "a manifest of 64 MiB": faulty(
        Fault(where=OF_MANIFEST, transform=lambda d: d + b" " * (64 << 20))
    ),
    "an error body of 64 MiB": faulty(status(500, body=b"x" * (64 << 20))),
    "blobs longer than they say": faulty(
        Fault(where=BLOB, transform=lambda d: d + bytes(64 << 20))
    ),
    "ranges ignored": faulty(cut(1000, where=BLOB, ignore_range=True)),
    "an honest diffID, slowly": slow_diff_id,
    "an honest layer over a slow one": slow_below,
    "an honest layer beside slow ones": slow_beside,
    "an honest blob, slowly": slow_blob,
    "an honest blob of a false size, slowly": false_size,
    "wrong bytes of an honest blob, slowly": wrong_bytes_of_an_honest_blob,
    "wrong bytes of an honest blob, again and again": wrong_bytes_again_and_again,
    "an honest layer as a manifest, slowly": layer_as_a_manifest,
    "whiteouts that wait for a slow layer": waiting_whiteouts,
    **CROWDS,
    "configs that are large as objects": large_documents,
    **HOARDS,
    **{name: faulty(*faults) for name, faults in FAULTS.items()},
    **ODD,
    "a config nested a million times": nested_config,
    "indexes in indexes": deep_index,
    "an index of 30,000": wide_index,
    "seals of many directories": many_directories,
    "names whose DNS never answers": unanswered_names,
    **{f"flood: {name}": flood(name) for name in FLOODS},
    **{f"bomb: {name}": bomb(name) for name in BOMBS},
    **{
        f"archives {first} to {first + _ARCHIVES_AT_ONCE - 1}": archives(
            list(itertools.islice(CASES, first, first + _ARCHIVES_AT_ONCE))
        )
        for first in range(0, len(CASES), _ARCHIVES_AT_ONCE)
    },
}


async def _flood(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head, pieces = FLOODS[name]
    with contextlib.suppress(OSError):
        await reader.readuntil(b"\r\n\r\n")
        print("asked", flush=True)
        writer.write(head)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(_FLOOD_PAUSE)


class _Blackhole(asyncio.DatagramProtocol):
    """A name server that hears and says nothing."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.asked.set()


async def _serve(name: str) -> None:
    async with FaultRegistry(also=ADDRESSES) as registry:
        pulls = HOSTILE[name](registry)
        if name.startswith("flood: "):
            kind = name.removeprefix("flood: ")
            server = await asyncio.start_server(partial(_flood, kind), "127.0.0.1", 0)
            authority = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            pulls = [f"{authority}/{each}" for each in pulls]
        hole = _Blackhole()
        if HOSTILE[name] is unanswered_names:
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda: hole, (NAME_SERVER, 53))
        print(json.dumps(list(pulls)), flush=True)
        if HOSTILE[name] is unanswered_names:
            await hole.asked.wait()
            print("asked", flush=True)
        elif not name.startswith("flood: "):
            await registry.until(lambda: bool(registry.seen))
            print("asked", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    os.nice(10)  # on a machine of few cores it shall not win by its own work
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1]))
