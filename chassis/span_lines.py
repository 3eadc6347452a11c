"""Spans as OTLP JSON lines, each written when it ends: who was answered finds the span whatever kills the process then.

A batch that waits for its second is lost with the process. The SDK's encoder makes a protobuf message first, which
takes ten times as long as a line is allowed to take on the way of an answer; so a span is encoded here directly.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.trace import Link, SpanContext

from chassis.otlp_json import MAX_BYTES, JsonLines

# OTLP's span flags: whether the parent is in another process is known, and whether it is.
_PARENT_KNOWN, _PARENT_REMOTE = 0x100, 0x200


class SpanLines(SpanProcessor):
    """Write every span as an export request of its own, one per line."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._file = JsonLines(path, max_bytes)
        self._heads: dict[tuple[Resource, str], str] = {}

    def on_end(self, span: ReadableSpan) -> None:
        """Write a span. A disk that refuses loses it, and does not stop the service."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        try:
            self._file.write(f"{self._head(span)}{json.dumps(_span(span, context), separators=(',', ':'))}]}}]}}]}}")
        except OSError:
            return

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()

    def _head(self, span: ReadableSpan) -> str:
        scope = span.instrumentation_scope.name if span.instrumentation_scope else ""
        key = span.resource, scope
        if key not in self._heads:
            resource = json.dumps({"attributes": _attributes(span.resource.attributes)}, separators=(",", ":"))
            head = f'{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"scope":{json.dumps({"name": scope})},'
            self._heads[key] = f'{head}"spans":['
        return self._heads[key]


def _span(span: ReadableSpan, context: SpanContext) -> dict[str, Any]:
    found: dict[str, Any] = {
        **_ids(context),
        "name": span.name,
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "status": _status(span),
        "flags": _flags(span.parent),
    }
    if span.parent is not None:
        found["parentSpanId"] = f"{span.parent.span_id:016x}"
    if span.attributes:
        found["attributes"] = _attributes(span.attributes)
    if span.events:
        found["events"] = [_event(event) for event in span.events]
    if span.links:
        found["links"] = [_link(link) for link in span.links]
    return found


def _ids(context: SpanContext) -> dict[str, str]:
    found = {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"}
    return found | {"traceState": context.trace_state.to_header()} if context.trace_state else found


def _status(span: ReadableSpan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if span.status.status_code.value:
        found["code"] = span.status.status_code.value
    if span.status.description:
        found["message"] = span.status.description
    return found


def _flags(parent: SpanContext | None) -> int:
    return _PARENT_KNOWN | (_PARENT_REMOTE if parent is not None and parent.is_remote else 0)


def _event(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = {"timeUnixNano": str(event.timestamp), "name": event.name}
    return found | {"attributes": _attributes(event.attributes)} if event.attributes else found


def _link(link: Link) -> dict[str, Any]:
    found: dict[str, Any] = {**_ids(link.context), "flags": _flags(link.context)}
    return found | {"attributes": _attributes(link.attributes)} if link.attributes else found


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    # bool is an int, so it is asked for first.
    match value:
        case str():
            return {"stringValue": value}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value if value - value == 0 else _not_finite(value)}
        case _:
            return {"arrayValue": {"values": [_value(item) for item in value]}}


def _not_finite(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
