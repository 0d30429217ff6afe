"""A collector of traces: OTLP over HTTP, as OpenTelemetry's own takes it."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from tests.support.leaks import emitted
from tests.support.process import wait_until


@dataclass(frozen=True)
class Received:
    """One span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    attributes: dict[str, Any]
    error: str


@dataclass
class Collector:
    spans: list[Received] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        pytest.importorskip("opentelemetry.proto")
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        request = ExportTraceServiceRequest.FromString(body)
        emitted("traces", str(request))
        for resource in request.resource_spans:
            for pair in resource.resource.attributes:
                if pair.key == "service.name":
                    self.services.add(pair.value.string_value)
            for scope in resource.scope_spans:
                self.spans += map(_received, scope.spans)

    def trace(self, name: str = "pull") -> list[Received]:
        """The spans of the last trace whose root has this name, once it is here."""
        wait_until(lambda: [span for span in self.spans if span.name == name], f"a span {name}")
        last = [span for span in self.spans if span.name == name][-1]
        return [span for span in self.spans if span.trace_id == last.trace_id]


def _received(span: Any) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes={
            pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes
        },
        error=span.status.message,
    )
