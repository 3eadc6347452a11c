"""OTLP as JSON lines in files that are capped in size. The encoding is the OTLP specification's own JSON encoding."""

import base64
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

MAX_BYTES = 64 * 1024 * 1024
_KEPT = 2
# How often at least the size of a file is asked for while it fills.
_LOOKS = 64
_IDS = {"traceId", "spanId", "parentSpanId"}


def otlp_json(request: Message) -> str:
    """Return an export request in the JSON encoding of OTLP: ids in hex, enums as numbers, names in lowerCamelCase."""
    return json.dumps(_hex_ids(MessageToDict(request, use_integers_for_enums=True)), separators=(",", ":"))


def _hex_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: base64.b64decode(v).hex() if k in _IDS else _hex_ids(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_hex_ids(item) for item in value]
    return value


class JsonLines:
    """A file of lines; when it is full it becomes `<name>.1`, and older ones go.

    A line is written with one write to an unbuffered file, so it survives the process.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._open: int | None = None
        # What may be written before the size of the file is asked for, which takes as long as a write.
        self._room = 0

    def write(self, line: str) -> None:
        """Append one line."""
        data = line.encode() + b"\n"
        with self._lock:
            number = self._number()
            if len(data) > self._room and not self._has_room(number, len(data)):
                self._rotate(number)
                number = self._number()
                self._has_room(number, len(data))
            self._room -= os.write(number, data)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        with self._lock:
            self._close()

    def _number(self) -> int:
        if self._open is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        return self._open

    def _has_room(self, number: int, needed: int) -> bool:
        # Not all that is left: another process may write to the same file.
        size = os.fstat(number).st_size
        self._room = min(self._max_bytes - size, self._max_bytes // _LOOKS)
        return size == 0 or size + needed <= self._max_bytes

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None
            self._room = 0

    def _rotate(self, number: int) -> None:
        # Another process that writes to the same file may have rotated it already.
        mine = self._path.exists() and os.path.samestat(os.fstat(number), self._path.stat())
        self._close()
        if not mine:
            return
        for n in range(_KEPT - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{n}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{n + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))


def _written(file: JsonLines, encode: Callable[[], Message]) -> bool:
    try:
        file.write(otlp_json(encode()))
    except OSError:
        # A full disk must not take the service down with it; the SDK counts what could not be exported.
        return False
    return True


class JsonLinesMetricExporter(MetricExporter):
    """Write metrics, one ExportMetricsServiceRequest per line."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._file = JsonLines(path, max_bytes)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:  # noqa: ARG002
        """Write a batch."""
        done = _written(self._file, lambda: encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS if done else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Do nothing: every batch is written at once."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the file."""
        self._file.close()


class JsonLinesLogExporter(LogRecordExporter):
    """Write log records, one ExportLogsServiceRequest per line."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._file = JsonLines(path, max_bytes)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write a batch."""
        done = _written(self._file, lambda: encode_logs(batch))
        return LogRecordExportResult.SUCCESS if done else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()

    def force_flush(self, timeout_millis: int = 10_000) -> bool:  # noqa: ARG002
        """Do nothing: every batch is written at once."""
        return True
