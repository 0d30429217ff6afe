"""Around every RPC: error mapping, one canonical log line, metrics."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from cri_imaged.cri.errors import status_of
from cri_imaged.errors import ImagedError
from cri_imaged.obs.metrics import Metrics

log = structlog.get_logger()

_QUIET = ("/grpc.health.v1.Health/", "/grpc.reflection.")
_PULL = "/runtime.v1.ImageService/PullImage"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each handler that the server has."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._calls: set[asyncio.Task[Any]] = set()

    async def idle(self) -> None:
        """Wait until no call is at work. gRPC's server does not wait for those that it cancels."""
        if self._calls:
            await asyncio.wait(self._calls)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(details)
        if handler is None or handler.request_streaming or details.method.startswith(_QUIET):
            return handler
        method = details.method
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            self._at_work()
            with _Call(method, self._metrics) as record:
                try:
                    return await behaviour(request, context)
                except Exception as error:
                    await record.abort(context, error)

        return call

    def _stream(self, method: str, behaviour: Callable[..., AsyncIterator[Any]]) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            self._at_work()
            with _Call(method, self._metrics) as record:
                try:
                    async for response in behaviour(request, context):
                        yield response
                except Exception as error:
                    await record.abort(context, error)

        return call

    def _at_work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


class _Call:
    """One RPC from start to end."""

    def __init__(self, method: str, metrics: Metrics) -> None:
        self._method = method
        self._metrics = metrics
        self._code = grpc.StatusCode.OK
        self._message = ""

    def __enter__(self) -> _Call:
        structlog.contextvars.clear_contextvars()
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None and self._code is grpc.StatusCode.OK:
            cancelled = kind in (asyncio.CancelledError, GeneratorExit)
            self._code = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.INTERNAL
        seconds = time.monotonic() - self._began
        self._metrics.rpc(self._method, self._code.name, seconds)
        failed = self._code is not grpc.StatusCode.OK
        emit = log.info if failed or self._method == _PULL else log.debug
        emit(
            "rpc",
            method=self._method,
            code=self._code.name,
            seconds=round(seconds, 4),
            **({"error": self._message} if failed else {}),
        )

    async def abort(self, context: Any, error: Exception) -> None:
        """Answer with the status that `error` maps to."""
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
