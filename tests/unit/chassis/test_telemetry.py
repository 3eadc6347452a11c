import json
import logging
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.otlp_json import JsonLines, otlp_json
from chassis.span_lines import SpanLines
from chassis.telemetry import JsonFormatter, OtlpHandler, Telemetry


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


def test_spans_logs_and_metrics_are_written_as_otlp_json(tmp_path: Path) -> None:
    telemetry = Telemetry("demo", tmp_path)
    handler = OtlpHandler(telemetry.logger())
    with telemetry.tracer.start_as_current_span("work") as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"
        record = logging.LogRecord("lineal", logging.WARNING, __file__, 1, "watch %s", ("out",), None)
        handler.emit(record)
        line = json.loads(JsonFormatter("demo").format(record))
    telemetry.server_duration.record(0.3, "a.B/C", "OK", None)
    telemetry.shutdown()

    [request] = lines(tmp_path / "demo-spans.jsonl")
    [written] = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (written["name"], written["traceId"]) == ("work", trace_id)
    [request] = lines(tmp_path / "demo-logs.jsonl")
    [log] = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert (log["body"], log["severityNumber"], log["traceId"]) == ({"stringValue": "watch out"}, 13, trace_id)
    [request] = lines(tmp_path / "demo-metrics.jsonl")
    [metric] = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert metric["name"] == "rpc.server.call.duration"
    assert metric["histogram"]["dataPoints"][0]["explicitBounds"][0] == 0.005
    assert (line["message"], line["level"], line["trace_id"]) == ("watch out", "WARNING", trace_id)


def test_files_of_lines_are_capped(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "x.jsonl", max_bytes=100)
    for n in range(50):
        file.write(f'{{"n":{n}}}')
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"x.jsonl", "x.jsonl.1", "x.jsonl.2"}
    assert max(sizes.values()) <= 100
    assert lines(tmp_path / "x.jsonl")[-1] == {"n": 49}


def test_a_file_that_another_process_fills_too_stays_near_its_cap(tmp_path: Path) -> None:
    path, cap = tmp_path / "x.jsonl", 6_400
    ours, theirs = JsonLines(path, cap), JsonLines(path, cap)
    for _ in range(2_000):
        ours.write("o" * 9)
        theirs.write("t" * 9)
    # Each looks after every 64th of the cap at the latest.
    assert max(each.stat().st_size for each in tmp_path.iterdir()) <= cap + 2 * cap // 64


def test_a_disk_that_refuses_does_not_stop_the_service(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    telemetry = Telemetry("demo", tmp_path / "taken")
    with telemetry.tracer.start_as_current_span("work"):
        pass
    telemetry.shutdown()


def test_a_line_is_what_the_sdk_encodes(tmp_path: Path) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "demo"}), shutdown_on_exit=False)
    kept = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    provider.add_span_processor(SpanLines(tmp_path / "spans.jsonl"))
    tracer = provider.get_tracer("lineal")
    parent = TraceContextTextMapPropagator().extract(
        {"traceparent": f"00-{7:032x}-{9:016x}-01", "tracestate": "vendor=1"}
    )
    other = SpanContext(3, 4, is_remote=False, trace_flags=TraceFlags(1))
    with tracer.start_as_current_span("outer", parent, SpanKind.SERVER, links=[Link(other, {"why": "retry"})]) as span:
        span.set_attributes({"s": 'a "quoted" ü', "i": -(2**53), "f": 0.1, "b": True, "l": ["x", "y"], "n": [1, 2]})
        span.add_event("seen", {"at": 1.5})
        span.set_status(StatusCode.ERROR, "went wrong")
        with tracer.start_as_current_span("inner"):
            pass
    provider.shutdown()
    for written, finished in zip(lines(tmp_path / "spans.jsonl"), kept.get_finished_spans(), strict=True):
        assert written == json.loads(otlp_json(encode_spans([finished])))


def test_a_span_is_on_disk_when_it_has_ended(tmp_path: Path) -> None:
    telemetry = Telemetry("demo", tmp_path)
    with telemetry.tracer.start_as_current_span("work"):
        pass
    assert len(lines(tmp_path / "demo-spans.jsonl")) == 1
    telemetry.shutdown()


def test_two_processes_that_share_a_file_rotate_it_once(tmp_path: Path) -> None:
    files = [JsonLines(tmp_path / "x.jsonl", max_bytes=40) for _ in range(2)]
    for file in files:
        file.write('{"n":"long enough for one line"}')
        file.write('{"n":"long enough for one line"}')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl", "x.jsonl.1", "x.jsonl.2"]
    assert len([line for path in tmp_path.iterdir() for line in lines(path)]) == 3
