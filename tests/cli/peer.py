"""A daemon on the other end of the socket that answers what a test wants: for what the command
line must cope with and the real daemon does not do at will."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from cri_imaged.rpc.node.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    registries_pb2,
    registries_pb2_grpc,
    runtimes_pb2,
    runtimes_pb2_grpc,
    upkeep_pb2,
    upkeep_pb2_grpc,
)
from cri_imaged.rpc.runtime.v1 import api_pb2, api_pb2_grpc
from tests.support.leaks import emitted

PROGRAM = Path(sys.executable).parent / "cri-imaged"
IMAGE_ID = "sha256:" + "0123456789abcdef" * 4
IMAGE = api_pb2.Image(
    id=IMAGE_ID,
    repo_tags=["docker.io/library/a:1"],
    repo_digests=[f"docker.io/library/a@{IMAGE_ID}"],
    size=2048,
)


@dataclass(frozen=True)
class Ran:
    """How one run of the program ended."""

    code: int
    out: str
    err: str


@dataclass
class Peer:
    """Answers by method name, and remembers the requests."""

    socket: Path
    answers: dict[str, Any] = field(default_factory=dict)
    """A message, a list of messages (a stream), a (code, details) pair, or a coroutine function of
    the request. A method without an answer is UNIMPLEMENTED."""
    requests: list[Any] = field(default_factory=list)

    def asked(self, kind: type[Any]) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]

    async def run(self, *arguments: str, stdin: str = "", **env: str) -> Ran:
        """Run the program against this peer."""
        process = await self.start(*arguments, **env)
        out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        ran = Ran(process.returncode, out.decode(), err.decode())
        emitted(f"what cri-imaged {arguments[0]} prints", ran.out + ran.err)
        return ran

    async def start(self, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            PROGRAM,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "CRI_IMAGED_ADDRESS": str(self.socket), **env},
        )

    async def unary(self, name: str, request: Any, context: Any) -> Any:
        self.requests.append(request)
        answer = self.answers.get(name, (grpc.StatusCode.UNIMPLEMENTED, f"no {name} here"))
        if callable(answer):
            answer = await answer(request)
        if isinstance(answer, tuple):
            await context.abort(*answer)
        return answer

    async def stream(self, name: str, request: Any, context: Any) -> AsyncIterator[Any]:
        for message in await self.unary(name, request, context):
            yield message


def _unary(name: str) -> Callable[..., Any]:
    async def method(self: Any, request: Any, context: Any) -> Any:
        return await self.peer.unary(name, request, context)

    return method


def _stream(name: str) -> Callable[..., Any]:
    async def method(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self.peer.stream(name, request, context):
            yield message

    return method


def _servicer(base: type[Any], service: Any, peer: Peer) -> Any:
    methods = {
        method.name: (_stream if method.server_streaming else _unary)(method.name)
        for method in service.methods
    }
    return type("Servicer", (base,), {**methods, "peer": peer})()


_SERVICES: Any = [
    (
        module,
        name,
        getattr(stubs, f"add_{name}Servicer_to_server"),
        getattr(stubs, f"{name}Servicer"),
    )
    for module, stubs, name in (
        (api_pb2, api_pb2_grpc, "ImageService"),
        (api_pb2, api_pb2_grpc, "RuntimeService"),
        (node_pb2, node_pb2_grpc, "Node"),
        (runtimes_pb2, runtimes_pb2_grpc, "Runtimes"),
        (history_pb2, history_pb2_grpc, "History"),
        (catalog_pb2, catalog_pb2_grpc, "Catalog"),
        (registries_pb2, registries_pb2_grpc, "Registries"),
        (upkeep_pb2, upkeep_pb2_grpc, "Upkeep"),
    )
]


@asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[Peer]:
    """Serve on `socket` while the context lasts."""
    peer = Peer(socket)
    server = grpc.aio.server()
    for module, name, add, base in _SERVICES:
        service = module.DESCRIPTOR.services_by_name[name]
        add(_servicer(base, service, peer), server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield peer
    finally:
        await server.stop(None)
