"""The connection of a client command to the daemon."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from cri_imaged import locations
from cri_imaged.cli.failure import ExitCode, Failure, of_status
from cri_imaged.rpc.runtime.v1 import api_pb2_grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cri_imaged.rpc.node.v1 import (
        archives_pb2_grpc,
        catalog_pb2_grpc,
        history_pb2_grpc,
        node_pb2_grpc,
        registries_pb2_grpc,
        runtimes_pb2_grpc,
        upkeep_pb2_grpc,
    )

T = TypeVar("T")
Answer = TypeVar("Answer", bound="Message")

ANSWER_SECONDS = 30.0
"""How long a command waits for answers that the daemon gives from memory."""
_OPTIONS = [("grpc.max_receive_message_length", -1)]


class Daemon:
    """The services of one running daemon. The stubs of what only some commands call are imported
    when they are asked for."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.images = api_pb2_grpc.ImageServiceStub(channel)
        self.runtime = api_pb2_grpc.RuntimeServiceStub(channel)

    @cached_property
    def node(self) -> node_pb2_grpc.NodeStub:
        """Our own Node service."""
        from cri_imaged.rpc.node.v1.node_pb2_grpc import NodeStub

        return NodeStub(self._channel)

    @cached_property
    def runtimes(self) -> runtimes_pb2_grpc.RuntimesStub:
        """Our own Runtimes service."""
        from cri_imaged.rpc.node.v1.runtimes_pb2_grpc import RuntimesStub

        return RuntimesStub(self._channel)

    @cached_property
    def archives(self) -> archives_pb2_grpc.ArchivesStub:
        """Our own Archives service."""
        from cri_imaged.rpc.node.v1.archives_pb2_grpc import ArchivesStub

        return ArchivesStub(self._channel)

    @cached_property
    def history(self) -> history_pb2_grpc.HistoryStub:
        """Our own History service."""
        from cri_imaged.rpc.node.v1.history_pb2_grpc import HistoryStub

        return HistoryStub(self._channel)

    @cached_property
    def catalog(self) -> catalog_pb2_grpc.CatalogStub:
        """Our own Catalog service."""
        from cri_imaged.rpc.node.v1.catalog_pb2_grpc import CatalogStub

        return CatalogStub(self._channel)

    @cached_property
    def registries(self) -> registries_pb2_grpc.RegistriesStub:
        """Our own Registries service."""
        from cri_imaged.rpc.node.v1.registries_pb2_grpc import RegistriesStub

        return RegistriesStub(self._channel)

    @cached_property
    def upkeep(self) -> upkeep_pb2_grpc.UpkeepStub:
        """Our own Upkeep service."""
        from cri_imaged.rpc.node.v1.upkeep_pb2_grpc import UpkeepStub

        return UpkeepStub(self._channel)


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


def exchange(
    address: str | None, method: str, requests: Iterable[Message], answers: type[Answer]
) -> Iterator[Answer]:
    """Call a `method` that takes a stream, and give its answers as they come. Where the daemon ends
    the call while it is sent something, grpc.aio tells that sending failed, and never why.

    Raises:
        Failure: as `call`, and what `requests` raises.
    """
    path = socket_path(address)
    _probe(path)
    failed: list[Exception] = []

    def sent() -> Iterator[Message]:
        try:
            yield from requests
        except Exception as error:
            failed.append(error)
            raise

    def serialized(request: Message) -> bytes:
        return request.SerializeToString()

    try:
        with grpc.insecure_channel(f"unix://{path}", options=_OPTIONS) as channel:
            call = channel.stream_stream(method, serialized, answers.FromString)(sent())
            try:
                yield from call
            except grpc.RpcError:
                if failed:
                    raise failed[0] from None
                raise of_status(call.code().name, call.details() or "") from None
    except KeyboardInterrupt:
        raise Failure(ExitCode.INTERRUPTED, "interrupted") from None


@asynccontextmanager
async def _connect(path: Path) -> AsyncIterator[Daemon]:
    async with grpc.aio.insecure_channel(f"unix://{path}", options=_OPTIONS) as channel:
        try:
            yield Daemon(channel)
        except grpc.aio.AioRpcError as error:
            raise of_status(error.code().name, error.details() or "") from None


def socket_path(address: str | None) -> Path:
    """The socket to use: `address`, else root's or this user's own, else the system's.

    Raises:
        Failure: `address` is not a socket's path.
    """
    if address:
        try:
            return locations.socket_path(os.path.abspath(address.removeprefix("unix://")))
        except ValueError as error:
            raise Failure(ExitCode.USAGE, str(error)) from None
    system = locations.SYSTEM_SOCKET
    if os.geteuid() == 0:
        return system
    own = locations.own_socket()
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
