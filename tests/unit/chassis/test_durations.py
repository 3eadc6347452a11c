"""Our histogram of durations is what the SDK's would have been."""

import json
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from chassis.durations import BOUNDS, CallDurations
from chassis.otlp_json import otlp_json

NAME, WHAT = "rpc.client.call.duration", "How long calls took."
SPAN = SpanContext(7, 9, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
# At a bound, below the first and above the last one.
SECONDS = (0.001, 0.005, 0.0051, 0.3, 10.0, 11.0)


def encoded(data: MetricsData) -> Any:
    [request] = json.loads(otlp_json(encode_metrics(data)))["resourceMetrics"]
    [metric] = request["scopeMetrics"][0]["metrics"]
    for point in metric["histogram"]["dataPoints"]:
        del point["startTimeUnixNano"], point["timeUnixNano"]
        point["attributes"].sort(key=lambda each: each["key"])
        for exemplar in point.get("exemplars", ()):
            del exemplar["timeUnixNano"]
        if "exemplars" in point:
            point["exemplars"].sort(key=lambda each: each["asDouble"])
    return request


def test_durations_are_exported_as_the_sdk_would() -> None:
    resource = Resource.create({"service.name": "demo"})
    reader = InMemoryMetricReader()
    view = View(instrument_name=NAME, aggregation=ExplicitBucketHistogramAggregation(BOUNDS))
    provider = MeterProvider([reader], resource, shutdown_on_exit=False, views=[view])
    theirs = provider.get_meter("lineal").create_histogram(NAME, unit="s", description=WHAT)
    ours = CallDurations(NAME, WHAT)
    traced = set_span_in_context(NonRecordingSpan(SPAN))
    for seconds in SECONDS:
        known = {"rpc.system.name": "grpc", "rpc.method": "a.B/C", "server.address": "there:1"}
        theirs.record(seconds, {**known, "rpc.response.status_code": "OK"}, traced)
        ours.record(seconds, "a.B/C", "OK", SPAN, "there:1")
        theirs.record(seconds, {**known, "rpc.response.status_code": "ABORTED", "error.type": "ABORTED"})
        ours.record(seconds, "a.B/C", "ABORTED", None, "there:1")
    metric, expected = ours.metric(), reader.get_metrics_data()
    assert metric is not None
    assert expected is not None
    scope = ScopeMetrics(InstrumentationScope("lineal", schema_url=""), [metric], "")
    assert encoded(MetricsData([ResourceMetrics(resource, [scope], "")])) == encoded(expected)


def test_nothing_is_exported_where_nothing_was_called() -> None:
    assert CallDurations(NAME, WHAT).metric() is None
