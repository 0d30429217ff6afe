"""When traces are exported, and whose they are."""

from __future__ import annotations

import sys

import pytest

from cri_imaged.cri.convert import trace_of
from cri_imaged.errors import ConfigError
from cri_imaged.obs.tracing import Origin, exporting, is_wanted

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("endpoint", "environ", "wanted"),
    [
        ("", {}, False),
        ("http://c:4318/v1/traces", {}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ("http://c:4318/v1/traces", {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_off_until_somebody_says_where_to(
    endpoint: str, environ: dict[str, str], wanted: bool
) -> None:
    assert is_wanted(endpoint, environ) is wanted


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"cri-imaged\[tracing\]"):
        async with exporting("http://127.0.0.1:1/", "1"):
            pass


@pytest.mark.parametrize(
    ("header", "origin"),
    [
        (f"00-{TRACE}-{SPAN}-01", Origin(TRACE, SPAN, sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", Origin(TRACE, SPAN, sampled=False)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", Origin(TRACE, SPAN, sampled=True)),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_a_clients_trace(header: str, origin: Origin | None) -> None:
    assert trace_of([("traceparent", header)]) == origin
