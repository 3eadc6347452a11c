"""Traces, metrics and logs of one service, as OTLP: to a collector, or as JSON lines in the data folder."""

import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from opentelemetry import trace
from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

from chassis.context import caller
from chassis.durations import CallDurations, Durations, MetricExports
from chassis.otlp_json import JsonLinesLogExporter, JsonLinesMetricExporter
from chassis.span_lines import SpanLines
from chassis.spans import CallSpans

_SCOPE = "lineal"
_FLUSH_MILLIS = 1000
_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class Telemetry:
    """The tracer of a service and the durations of its calls.

    Nothing global is set, so a test may run several services at once.

    With `OTEL_EXPORTER_OTLP_ENDPOINT` everything goes there by OTLP over gRPC. Without it, to
    `<folder>/<instance>-spans.jsonl`, `-metrics.jsonl` and `-logs.jsonl`, capped in size, one export request per line.
    In files a span is written when it ends, logs at latest a second later. A folder of None drops everything.
    """

    def __init__(self, service: str, folder: Path | None, instance: str = "") -> None:
        """Name the service; `instance` names its files where several processes of it share a folder."""
        self.service = service
        resource = Resource.create({"service.name": f"lineal-{service}", "service.instance.id": str(os.getpid())})
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self.server_duration = CallDurations(
            "rpc.server.call.duration", "How long calls took that this service answered."
        )
        self.client_duration = CallDurations("rpc.client.call.duration", "How long calls took that this service made.")
        # What is exported; a service may append histograms of its own.
        self.histograms: list[Durations] = [self.server_duration, self.client_duration]
        self._metrics: MetricExports | None = None
        spans, metrics, logs = _outlets(instance or service, folder)
        if spans and metrics and logs:
            self._traces.add_span_processor(spans)
            self._logs.add_log_record_processor(BatchLogRecordProcessor(logs, schedule_delay_millis=_FLUSH_MILLIS))
            self._metrics = MetricExports(metrics, resource, _SCOPE, self.histograms)
        self.tracer: Tracer = self._traces.get_tracer(_SCOPE)
        self.calls = CallSpans(self._traces, spans, _SCOPE)

    def logger(self) -> Logger:
        """Return the logger that `OtlpHandler` writes to."""
        return self._logs.get_logger(_SCOPE)

    def flush(self) -> None:
        """Write what has ended so far."""
        self._traces.force_flush()
        self._logs.force_flush()

    def shutdown(self) -> None:
        """Write everything and stop. A collector that is away costs one time-out of an export, not three in a row."""
        stopping = [self._traces.shutdown, self._logs.shutdown, *([self._metrics.shutdown] if self._metrics else [])]
        with ThreadPoolExecutor(len(stopping)) as pool:
            for stopped in [pool.submit(shutdown) for shutdown in stopping]:
                stopped.result()


def _outlets(
    instance: str, folder: Path | None
) -> tuple[SpanProcessor | None, MetricExporter | None, LogRecordExporter | None]:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None, None, None
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        spans = BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_FLUSH_MILLIS)
        return spans, OTLPMetricExporter(), OTLPLogExporter()
    if folder is None:
        return None, None, None
    return (
        SpanLines(folder / f"{instance}-spans.jsonl"),
        JsonLinesMetricExporter(folder / f"{instance}-metrics.jsonl"),
        JsonLinesLogExporter(folder / f"{instance}-logs.jsonl"),
    )


class OtlpHandler(logging.Handler):
    """Hand log records to OpenTelemetry, with the trace they belong to."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on one record."""
        if record.name.startswith("opentelemetry"):
            # An exporter that cannot export must not feed itself.
            return
        attributes = {"code.function.name": record.funcName, "logger.name": record.name}
        if record.exc_info:
            attributes["exception.stacktrace"] = _FORMATTER.formatException(record.exc_info)
        severity = _SEVERITIES.get(record.levelno, SeverityNumber.INFO)
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_number=severity,
                severity_text=record.levelname,
                body=record.getMessage(),
                attributes=attributes,
            )
        )


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the trace and the correlation id of the call it belongs to."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
            line["correlation_id"] = caller().correlation_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


_FORMATTER = logging.Formatter()


def configure_logging(service: str, level: str, telemetry: Telemetry) -> None:
    """Send this process's log to stderr as JSON lines, and to OpenTelemetry. Once per process."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers = [stream, OtlpHandler(telemetry.logger())]
    root.setLevel(level.upper())
