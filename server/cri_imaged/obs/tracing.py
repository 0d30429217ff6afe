"""Traces, exported by OpenTelemetry's SDK (an extra: `cri-imaged[tracing]`) in OTLP over HTTP.

Nothing of it is imported unless traces are wanted. Spans are made when what they tell of is over;
the SDK exports them in a thread of its own, and drops what a collector does not take.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cri_imaged.errors import ConfigError

_EXPORT_SECONDS = 5
_ENVIRONMENT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time."""

    name: str
    began: float
    """Unix seconds."""
    seconds: float
    attributes: Mapping[str, str | int]
    error: str = ""
    """Why it failed; empty where it did not."""
    children: Sequence[Span] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """The trace that a span belongs to (W3C Trace Context)."""

    trace_id: str
    """32 hex digits."""
    parent_id: str
    """Of the client's span, 16 hex digits; empty where it gave none."""
    sampled: bool
    span_id: str = ""
    """Of the span itself, 16 hex digits; empty where none is made."""

    @property
    def traceparent(self) -> str:
        """What whoever works for the span is told."""
        return f"00-{self.trace_id}-{self.span_id or self.parent_id}-{int(self.sampled):02x}"


def is_wanted(endpoint: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether traces are exported: to `endpoint`, or where the standard variables say."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return bool(endpoint or any(environ.get(name) for name in _ENVIRONMENT))


@asynccontextmanager
async def exporting(endpoint: str, version: str) -> AsyncIterator[Exporter]:
    """An exporter to `endpoint`, or to where the standard variables say, while the context lasts.

    Raises:
        ConfigError: the SDK is not installed.
    """
    try:
        exporter = await asyncio.to_thread(Exporter, endpoint, version)
    except ImportError as error:
        raise ConfigError(
            f"tracing: {error.name} is missing: install cri-imaged[tracing], or set no endpoint"
        ) from None
    try:
        yield exporter
    finally:
        await asyncio.to_thread(exporter.close)


class Exporter:
    """Exports spans."""

    def __init__(self, endpoint: str, version: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._api: Any = trace
        self._trace_id = 0
        self._span_id = ""  # of the next span; empty: any
        # A pull's IDs are known before its spans are made: its log line has one, registries both.
        ids = type(
            "Ids",
            (RandomIdGenerator,),
            {
                "generate_trace_id": lambda _: self._trace_id,
                "generate_span_id": lambda _: int(self._span_id or secrets.token_hex(8), 16),
            },
        )
        names = {"service.version": version}
        if "OTEL_SERVICE_NAME" not in os.environ:
            names["service.name"] = "cri-imaged"
        self._provider = TracerProvider(resource=Resource.create(names), id_generator=ids())
        sender = OTLPSpanExporter(endpoint=endpoint or None, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(sender))
        self._tracer = self._provider.get_tracer("cri-imaged", version)

    def export(self, span: Span, origin: Origin) -> None:
        """Export a span and those below it, soon, in the background."""
        self._trace_id = int(origin.trace_id, 16)
        self._span_id = origin.span_id
        context = None
        if origin.parent_id:
            parent = self._api.SpanContext(
                int(origin.trace_id, 16),
                int(origin.parent_id, 16),
                is_remote=True,
                trace_flags=self._api.TraceFlags(int(origin.sampled)),
            )
            context = self._api.set_span_in_context(self._api.NonRecordingSpan(parent))
        self._make(span, context)

    def _make(self, span: Span, context: Any) -> None:
        made = self._tracer.start_span(
            span.name,
            context=context,
            attributes=dict(span.attributes),
            start_time=int(span.began * 1e9),
        )
        self._span_id = ""
        inside = self._api.set_span_in_context(made)
        for child in span.children:
            self._make(child, inside)
        if span.error:
            made.set_status(self._api.StatusCode.ERROR, span.error)
        made.end(end_time=int((span.began + span.seconds) * 1e9))

    def close(self) -> None:
        """Export what is left. Waits for the collector, for some seconds at the most."""
        self._provider.shutdown()
