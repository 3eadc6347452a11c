import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.otlp_json import otlp_json
from chassis.span_lines import SpanLines
from chassis.spans import CallSpans

PARENT = TraceContextTextMapPropagator().extract({"traceparent": f"00-{7:032x}-{9:016x}-01", "tracestate": "vendor=1"})
OWN = ("spanId", "startTimeUnixNano", "endTimeUnixNano", "timeUnixNano")


def told(span: Span) -> None:
    span.set_attribute("rpc.response.status_code", "INTERNAL")
    span.set_attributes({"rows": 3, "ids": ["a", "b"]})
    span.add_event("read", {"bytes": 5})
    try:
        raise ValueError("no such column")
    except ValueError as error:
        span.record_exception(error)
    span.set_status(StatusCode.ERROR, "no such column")
    span.set_status(StatusCode.UNSET)
    span.update_name("renamed")
    span.end()
    span.end()


def written(path: Path) -> Any:
    [line] = path.read_text().splitlines()
    [span] = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for part in (span, *span["events"]):
        for name in OWN:
            part.pop(name, None)
    return span


@pytest.mark.parametrize("parent", [PARENT, None], ids=["called with a trace", "called without"])
def test_the_span_of_a_call_is_what_the_sdk_would_have_written(tmp_path: Path, parent: Any) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "demo"}), shutdown_on_exit=False)
    theirs, ours = SpanLines(tmp_path / "theirs.jsonl"), SpanLines(tmp_path / "ours.jsonl")
    provider.add_span_processor(theirs)
    told(provider.get_tracer("lineal").start_span("call", parent, SpanKind.SERVER, {"rpc.method": "a.B/C"}))
    told(CallSpans(provider, ours, "lineal").start("call", parent, SpanKind.SERVER, {"rpc.method": "a.B/C"}))
    found, expected = written(tmp_path / "ours.jsonl"), written(tmp_path / "theirs.jsonl")
    if parent is None:
        assert len(found.pop("traceId")) == len(expected.pop("traceId")) == 32
    assert found == expected


def test_the_span_of_a_call_is_encoded_alike_for_a_collector_and_for_a_file(tmp_path: Path) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "demo"}), shutdown_on_exit=False)
    span = CallSpans(provider, SpanLines(tmp_path / "ours.jsonl"), "lineal").start("call", PARENT, SpanKind.SERVER, {})
    told(span)
    assert isinstance(span, ReadableSpan)
    assert json.loads((tmp_path / "ours.jsonl").read_text()) == json.loads(otlp_json(encode_spans([span])))


def test_a_sampler_that_drops_a_call_is_obeyed(tmp_path: Path) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    span = CallSpans(provider, SpanLines(tmp_path / "ours.jsonl"), "lineal").start("call", PARENT, SpanKind.SERVER, {})
    span.end()
    assert (span.get_span_context().trace_id, span.is_recording()) == (7, False)
    assert not (tmp_path / "ours.jsonl").exists()
