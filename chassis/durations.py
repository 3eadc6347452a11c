"""How long calls took: OpenTelemetry's histogram, without the hash of its attributes that the SDK makes at every call.

What is exported are the SDK's own data points, through its own exporters, so a backend cannot tell the difference.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time_ns

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

_logger = logging.getLogger(__name__)
# Buckets of the RPC conventions, seconds.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_EXPORT_SECONDS = 10.0


@dataclass(slots=True)
class _Series:
    """The calls that share their attributes."""

    attributes: dict[str, str]
    start: int
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0
    least: float = float("inf")
    most: float = 0.0
    # Of each bucket the latest call that is traced, since its trace is the likeliest to be there still.
    exemplars: dict[int, tuple[float, int, SpanContext]] = field(default_factory=dict)

    def point(self, now: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=self.attributes,
            start_time_unix_nano=self.start,
            time_unix_nano=now,
            count=sum(self.counts),
            sum=self.total,
            bucket_counts=list(self.counts),
            explicit_bounds=BOUNDS,
            min=self.least,
            max=self.most,
            exemplars=[
                Exemplar({}, seconds, at, context.span_id, context.trace_id)
                for seconds, at, context in self.exemplars.values()
            ],
        )


class Durations:
    """A histogram of seconds for each key, since the start. Safe for several threads."""

    def __init__(self, name: str, description: str, attributes: Callable[..., dict[str, str]]) -> None:
        """Name the histogram; `attributes` makes a series' attributes of the parts of its key."""
        self._name = name
        self._description = description
        self._attributes = attributes
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _Series] = {}

    def count(self, seconds: float, key: tuple[str, ...], traced: SpanContext | None) -> None:
        """Count what has ended; `traced` is its span, None where that is not sampled."""
        bucket = bisect_left(BOUNDS, seconds)
        with self._lock:
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _Series(self._attributes(*key), time_ns())
            series.counts[bucket] += 1
            series.total += seconds
            if seconds < series.least:
                series.least = seconds
            if seconds > series.most:
                series.most = seconds
            if traced is not None:
                series.exemplars[bucket] = seconds, time_ns(), traced

    def metric(self) -> Metric | None:
        """Return what was counted so far, None where that is nothing."""
        now = time_ns()
        with self._lock:
            points = [series.point(now) for series in self._series.values()]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
        return Metric(self._name, self._description, "s", data) if points else None


class CallDurations(Durations):
    """How long calls took, for each method, code and server called."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(name, description, _attributes)

    def record(self, seconds: float, method: str, code: str, traced: SpanContext | None, server: str = "") -> None:
        """Count a call that has ended; `traced` is its span, None where that is not sampled."""
        self.count(seconds, (method, code, server), traced)


class MetricExports:
    """Exports histograms every ten seconds from a thread of its own, and at the end."""

    def __init__(
        self, exporter: MetricExporter, resource: Resource, scope: str, histograms: Sequence[Durations]
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._scope = InstrumentationScope(scope)
        self._histograms = histograms
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metric exports", daemon=True)
        self._thread.start()

    def shutdown(self) -> None:
        """Export for the last time and stop."""
        self._stopped.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stopped.wait(_EXPORT_SECONDS):
            self._export()
        self._export()

    def _export(self) -> None:
        metrics = [metric for each in self._histograms if (metric := each.metric()) is not None]
        if not metrics:
            return
        scope = ScopeMetrics(self._scope, metrics, "")
        try:
            self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        except Exception:
            # What is counted is counted on: the next export has it, too.
            _logger.exception("durations of calls could not be exported")


def _attributes(method: str, code: str, server: str) -> dict[str, str]:
    known = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": code}
    if server:
        known["server.address"] = server
    if code != "OK":
        known["error.type"] = code
    return known
