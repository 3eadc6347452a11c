import json
import logging
from pathlib import Path
from typing import Any

import pytest

from chassis.otlp_json import JsonLines
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
    telemetry.server_duration.record(0.3, {"rpc.method": "a.B/C"})
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


def test_a_disk_that_refuses_does_not_stop_the_service(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    telemetry = Telemetry("demo", tmp_path / "taken")
    with telemetry.tracer.start_as_current_span("work"):
        pass
    telemetry.shutdown()
