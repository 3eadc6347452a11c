"""Export to a collector, received for real."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from chassis.telemetry import OtlpHandler, Telemetry


class Collector:
    """Answers the three export RPCs and keeps what it was sent."""

    def __init__(self) -> None:
        self.received: dict[str, list[Any]] = {"spans": [], "metrics": [], "logs": []}

    def servicer(self, base: type, kind: str, response: type) -> Any:
        def export(_: Any, request: Any, context: Any) -> Any:
            self.received[kind].append(request)
            return response()

        return type("Servicer", (base,), {"Export": export})()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    traces: Any = trace_service_pb2_grpc
    metrics: Any = metrics_service_pb2_grpc
    logs: Any = logs_service_pb2_grpc
    traces.add_TraceServiceServicer_to_server(
        collector.servicer(traces.TraceServiceServicer, "spans", trace_service_pb2.ExportTraceServiceResponse), server
    )
    metrics.add_MetricsServiceServicer_to_server(
        collector.servicer(metrics.MetricsServiceServicer, "metrics", metrics_service_pb2.ExportMetricsServiceResponse),
        server,
    )
    logs.add_LogsServiceServicer_to_server(
        collector.servicer(logs.LogsServiceServicer, "logs", logs_service_pb2.ExportLogsServiceResponse), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collector
    server.stop(None)


def test_all_three_signals_reach_a_collector(collector: Collector, tmp_path: Path) -> None:
    telemetry = Telemetry("demo", tmp_path)
    with telemetry.tracer.start_as_current_span("work"):
        record = logging.LogRecord("lineal", logging.INFO, __file__, 1, "hello", (), None)
        OtlpHandler(telemetry.logger()).emit(record)
    telemetry.server_duration.record(0.3, "a.B/C", "OK", None)
    telemetry.shutdown()
    [spans], [metrics], [logs] = collector.received.values()
    resource = spans.resource_spans[0]
    names = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert names["service.name"] == "lineal-demo"
    assert resource.scope_spans[0].spans[0].name == "work"
    assert metrics.resource_metrics[0].scope_metrics[0].metrics[0].name == "rpc.server.call.duration"
    assert logs.resource_logs[0].scope_logs[0].log_records[0].body.string_value == "hello"
    assert list(tmp_path.iterdir()) == []


def test_a_collector_that_is_away_holds_up_the_end_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")
    telemetry = Telemetry("demo", tmp_path)
    with telemetry.tracer.start_as_current_span("work"):
        OtlpHandler(telemetry.logger()).emit(logging.LogRecord("lineal", logging.INFO, __file__, 1, "hello", (), None))
    telemetry.server_duration.record(0.3, "a.B/C", "OK", None)
    started = time.monotonic()
    telemetry.shutdown()
    # Three kinds of telemetry, each with 4 s, would be 12 s one after the other.
    assert time.monotonic() - started < 10
