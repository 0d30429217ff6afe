"""Around every RPC: error mapping, one canonical log line, metrics."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cri_imaged.cri.errors import explained, status_of
from cri_imaged.errors import ImagedError
from cri_imaged.obs.log import shows_debug
from cri_imaged.obs.metrics import Metrics

log = structlog.get_logger()

_EXPECTED = (grpc.StatusCode.OK, grpc.StatusCode.ALREADY_EXISTS)
"""Answers that say nothing is wrong: containerd is told so that a layer is here."""


class Calls:
    """The RPCs of one server. Handlers are wrapped once, when they are made: gRPC would have an
    interceptor do it anew for each call, which costs more than an answer from memory."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._at_work: set[asyncio.Task[Any]] = set()

    async def idle(self) -> None:
        """Wait until no call is at work. gRPC's server does not wait for those that it cancels."""
        if self._at_work:
            await asyncio.wait(self._at_work)

    def handlers(self, described: ServiceDescriptor, service: object) -> grpc.GenericRpcHandler:
        """How gRPC calls the methods of `service`, which has one for each that is described. They
        answer messages, or bytes that are ready."""
        handlers = {}
        for method in described.methods:
            name = f"/{described.full_name}/{method.name}"
            handlers[method.name] = self._handler(
                name,
                getattr(service, method.name),
                GetMessageClass(method.input_type).FromString,
                method.client_streaming,
                method.server_streaming,
            )
        return grpc.method_handlers_generic_handler(described.full_name, handlers)

    def _handler(
        self,
        name: str,
        behaviour: Callable[..., Any],
        read: Callable[[bytes], Message],
        takes_stream: bool,
        gives_stream: bool,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        if takes_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(name, behaviour), read, _serialised
            )
        if gives_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(name, behaviour), read, _serialised
            )
        return grpc.unary_unary_rpc_method_handler(self._unary(name, behaviour), read, _serialised)

    def _unary(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            with _Call(method, self._metrics, self._at_work) as record:
                try:
                    return await behaviour(request, context)
                except Exception as error:
                    await record.abort(context, error)

        return call

    def _stream(self, method: str, behaviour: Callable[..., AsyncGenerator[Any]]) -> Any:
        # No generator, which gRPC would drop unfinished where the client goes while it reads.
        async def call(request: Any, context: Any) -> None:
            with _Call(method, self._metrics, self._at_work) as record:
                try:
                    async with aclosing(behaviour(request, context)) as responses:
                        async for response in responses:
                            await context.write(response)
                except Exception as error:
                    await record.abort(context, error)

        return call


def _serialised(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


class _Call:
    """One RPC from start to end."""

    def __init__(self, method: str, metrics: Metrics, at_work: set[asyncio.Task[Any]]) -> None:
        self._method = method
        self._metrics = metrics
        self._at_work = at_work
        self._code = grpc.StatusCode.OK
        self._message = ""

    def __enter__(self) -> _Call:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._at_work.add(task)
        structlog.contextvars.clear_contextvars()
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        self._at_work.discard(self._task)
        if kind is not None and self._code is grpc.StatusCode.OK:
            cancelled = kind in (asyncio.CancelledError, GeneratorExit)
            self._code = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.INTERNAL
        seconds = time.monotonic() - self._began
        self._metrics.rpc(self._method, self._code.name, seconds)
        if self._code not in _EXPECTED:
            log.info("rpc", **self._shown(seconds), error=self._message)
        elif shows_debug():
            log.debug("rpc", **self._shown(seconds))

    def _shown(self, seconds: float) -> dict[str, Any]:
        return {"method": self._method, "code": self._code.name, "seconds": round(seconds, 4)}

    async def abort(self, context: Any, error: Exception) -> None:
        """Answer with the status that `error` maps to."""
        error = explained(error)
        if isinstance(error, ImagedError):
            self._code, self._message = status_of(error)
        elif isinstance(error, grpc.aio.AbortError):
            raise error
        else:
            error_id = uuid.uuid4().hex[:12]
            log.error("internal error", error_id=error_id, method=self._method, exc_info=error)
            self._code = grpc.StatusCode.INTERNAL
            self._message = f"internal error {error_id}; the daemon's log has the details"
        await context.abort(self._code, self._message)
