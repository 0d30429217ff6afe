"""A registry that holds bodies, and answers to HEAD, back until it is told to go on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.registry import Fault, FaultRegistry


@dataclass
class Gate:
    """Of a body only the first `passes` bytes come through until it is opened."""

    passes: int
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    """Requests that are being held back now."""


class GatedRegistry(FaultRegistry):
    """Adds gates to the faults; `gates` is by digest or tag."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, Gate] = {}

    def hold(self, reference: str, passes: int = 0) -> Gate:
        """Hold a blob or manifest back from now on."""
        self.gates[reference] = Gate(passes)
        return self.gates[reference]

    async def held(self, gate: Gate) -> None:
        """Wait until a request has got all that passes and waits for more."""
        await self.until(lambda: gate.waiting > 0)

    async def __aexit__(self, *exception: object) -> None:
        for gate in self.gates.values():
            gate.opened.set()
        await super().__aexit__(None, None, None)

    async def _serve(
        self,
        request: web.Request,
        content: tuple[str, bytes],
        fault: Fault,
        record: Callable[[int], None],
    ) -> web.StreamResponse:
        gate = self.gates.get(request.path.rpartition("/")[2])
        if gate is not None and request.method == "HEAD":
            await self._wait(gate)
        return await super()._serve(request, content, fault, record)

    async def _send(
        self, request: web.Request, response: web.StreamResponse, data: bytes, fault: Fault
    ) -> None:
        gate = self.gates.get(request.path.rpartition("/")[2])
        if gate is None or gate.opened.is_set():
            await super()._send(request, response, data, fault)
            return
        found = re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))
        first = max(0, gate.passes - (int(found[1]) if found else 0))
        await response.write(data[:first])
        await self._wait(gate)
        await super()._send(request, response, data[first:], fault)

    async def _wait(self, gate: Gate) -> None:
        gate.waiting += 1
        self.notify()
        try:
            await gate.opened.wait()
        finally:
            gate.waiting -= 1
            self.notify()
