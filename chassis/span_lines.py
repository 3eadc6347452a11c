"""Spans as OTLP JSON lines, each written when it ends: who was answered finds the span whatever kills the process then.

A batch that waits for its second is lost with the process. The SDK's encoder makes a protobuf message first, which
takes ten times as long as a line is allowed to take on the way of an answer; so a span is encoded here directly.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
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
        # By identity: to hash a resource takes longer than to write a span. The resource is kept, so its id is its own.
        self._heads: dict[tuple[int, str], tuple[Resource, str]] = {}

    def on_end(self, span: ReadableSpan) -> None:
        """Write a span. A disk that refuses loses it, and does not stop the service."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        try:
            self._file.write(f"{self._head(span)}{_span(span, context)}]}}]}}]}}")
        except OSError:
            return

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()

    def _head(self, span: ReadableSpan) -> str:
        scope = span.instrumentation_scope.name if span.instrumentation_scope else ""
        key = id(span.resource), scope
        if key not in self._heads:
            resource = f'{{"attributes":{_attributes(span.resource.attributes)}}}'
            head = f'{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"scope":{{"name":{_quoted(scope)}}},'
            self._heads[key] = span.resource, f'{head}"spans":['
        return self._heads[key][1]


# Texts are put together by hand, since dicts for json.dumps would take longer than everything else about a span.
def _span(span: ReadableSpan, context: SpanContext) -> str:
    parts = [
        f'{{{_ids(context)},"name":{_quoted(span.name)},"kind":{span.kind.value + 1}'
        f',"startTimeUnixNano":"{span.start_time}","endTimeUnixNano":"{span.end_time}"'
        f',"status":{_status(span)},"flags":{_flags(span.parent)}'
    ]
    if span.parent is not None:
        parts.append(f',"parentSpanId":"{span.parent.span_id:016x}"')
    if span.attributes:
        parts.append(f',"attributes":{_attributes(span.attributes)}')
    if span.events:
        parts.append(f',"events":{_list(map(_event, span.events))}')
    if span.links:
        parts.append(f',"links":{_list(map(_link, span.links))}')
    parts.append("}")
    return "".join(parts)


def _ids(context: SpanContext) -> str:
    found = f'"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}"'
    state = context.trace_state
    return f'{found},"traceState":{_quoted(state.to_header())}' if state else found


def _status(span: ReadableSpan) -> str:
    status = span.status
    parts = []
    if status.status_code.value:
        parts.append(f'"code":{status.status_code.value}')
    if status.description:
        parts.append(f'"message":{_quoted(status.description)}')
    return f"{{{','.join(parts)}}}"


def _flags(parent: SpanContext | None) -> int:
    return _PARENT_KNOWN | (_PARENT_REMOTE if parent is not None and parent.is_remote else 0)


def _event(event: Event) -> str:
    attributes = f',"attributes":{_attributes(event.attributes)}' if event.attributes else ""
    return f'{{"timeUnixNano":"{event.timestamp}","name":{_quoted(event.name)}{attributes}}}'


def _link(link: Link) -> str:
    attributes = f',"attributes":{_attributes(link.attributes)}' if link.attributes else ""
    return f'{{{_ids(link.context)},"flags":{_flags(link.context)}{attributes}}}'


def _list(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def _attributes(attributes: Mapping[str, Any]) -> str:
    return f"[{','.join([f'{_key(key)}{_value(value)}}}' for key, value in attributes.items()])}]"


@lru_cache(1024)
def _key(key: str) -> str:
    # Keys are a few, written in the code, and come again with every span.
    return f'{{"key":{_quoted(key)},"value":'


def _value(value: Any) -> str:
    # By type and not by class, which is quicker, and keeps bool apart from int.
    kind = type(value)
    if kind is str:
        return f'{{"stringValue":{_quoted(value)}}}'
    if kind is int:
        return f'{{"intValue":"{value}"}}'
    if kind is bool:
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, str):
        return _value(str(value))
    if isinstance(value, int):
        return _value(int(value))
    if isinstance(value, float):
        return f'{{"doubleValue":{json.dumps(value if value - value == 0 else _not_finite(value))}}}'
    return f'{{"arrayValue":{{"values":{_list(map(_value, value))}}}}}'


def _not_finite(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
