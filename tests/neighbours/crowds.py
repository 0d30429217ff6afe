"""What hurts by its number alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from tests.neighbours.honest import honest, serve
from tests.support.images import file, image, layer, sha256
from tests.support.registry import BLOB, Fault, FaultRegistry

MANY = 70
"""More than run at once from one registry."""
SLOW = {"pace": 0.5, "piece": 1000}
"""2 KB/s: above the rate under which a body counts as stalled."""
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 13)]
"""Where the hostile registry listens too: each is another one to the daemon."""


def slow_crowd(registry: FaultRegistry) -> Sequence[str]:
    """More slow pulls than run at once."""
    registry.faults.append(Fault(where=BLOB, **SLOW))
    return [
        serve(registry, f"slow/{n}", image(layer({"f": file(os.urandom(200_000))})))
        for n in range(MANY)
    ]


def cheap_burst(registry: FaultRegistry) -> Sequence[str]:
    """Many small images at once, with nothing wrong with them."""
    return [
        serve(registry, f"small/{n}", image(*(layer({"f": file(f"{n} {k}")}) for k in range(4))))
        for n in range(MANY)
    ]


def racing_registries(registry: FaultRegistry, *, slowly: bool = True) -> Sequence[str]:
    """An honest layer's blob, from a dozen registries that each have hardly begun."""
    base = honest().layers[0]
    if slowly:
        registry.faults.append(Fault(where=BLOB, reference=sha256(base.blob), **SLOW))
    name = serve(registry, "race", image(base)).partition("/")[2]
    return [f"{address}:{registry.port}/{name}" for address in ("127.0.0.1", *ADDRESSES)]


CROWDS: dict[str, Callable[[FaultRegistry], Sequence[str]]] = {
    "more slow pulls than run at once": slow_crowd,
    "a burst of small pulls": cheap_burst,
    "a dozen registries that race for an honest blob": racing_registries,
}
