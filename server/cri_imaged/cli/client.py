"""The connection of a client command to the daemon."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from cri_imaged.cli.failure import ExitCode, Failure, of_status
from cri_imaged.config import default_config
from cri_imaged.config.values import parse_socket_path
from cri_imaged.rpc.node.v1 import node_pb2_grpc
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc

T = TypeVar("T")

ANSWER_SECONDS = 30.0
"""How long a command waits for answers that the daemon gives from memory."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The services of one running daemon."""

    images: api_pb2_grpc.ImageServiceStub
    node: node_pb2_grpc.NodeStub


def call(address: str | None, work: Callable[[Daemon], Awaitable[T]]) -> T:
    """Connect, do `work`, and return its result.

    Raises:
        Failure: the daemon cannot be reached, or answered an error.
    """

    path = socket_path(address)

    async def connected() -> T:
        async with _connect(path) as daemon:
            return await work(daemon)

    try:
        _probe(path)
        return asyncio.run(connected())
    except KeyboardInterrupt:
        raise Failure(ExitCode.INTERRUPTED, "interrupted") from None


@asynccontextmanager
async def _connect(path: Path) -> AsyncIterator[Daemon]:
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix://{path}", options=options) as channel:
        try:
            yield Daemon(
                api_pb2_grpc.ImageServiceStub(channel),
                node_pb2_grpc.NodeStub(channel),
            )
        except grpc.aio.AioRpcError as error:
            raise of_status(error.code(), error.details() or "") from None


def socket_path(address: str | None) -> Path:
    """The socket to use: `address`, else root's or this user's own, else the system's.

    Raises:
        Failure: `address` is not a socket's path.
    """
    if address:
        try:
            return parse_socket_path(os.path.abspath(address.removeprefix("unix://")))
        except ValueError as error:
            raise Failure(ExitCode.USAGE, str(error)) from None
    system = default_config(privileged=True).grpc.address
    if os.geteuid() == 0:
        return system
    own = default_config(privileged=False).grpc.address
    return system if os.path.exists(system) and not os.path.exists(own) else own


def _probe(path: Path) -> None:
    """Say what gRPC's own message would not: why the socket cannot be used."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ANSWER_SECONDS)
            probe.connect(str(path))
    except PermissionError:
        raise Failure(
            ExitCode.DENIED,
            f"this user may not use {path}",
            "run as root, or as a member of the socket's group ([grpc] gid)",
        ) from None
    except OSError as error:
        raise Failure(
            ExitCode.UNREACHABLE,
            f"no daemon at {path}: {error.strerror or error}",
            "start one with `cri-imaged serve`, or name its socket with --address",
        ) from None
