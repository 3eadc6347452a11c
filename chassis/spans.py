"""The span of an RPC, for a third of what the SDK's own costs.

One coroutine writes it, so it needs no lock; its attributes are ours, so nobody has to clean, count and copy them.
Everything else is the SDK's: ids, sampler, resource, and the processors that it is handed to as a ReadableSpan.
"""

import traceback
from collections.abc import Mapping
from time import time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)


class CallSpans:
    """Starts the spans of RPCs."""

    def __init__(self, provider: TracerProvider, processor: SpanProcessor | None, scope: str) -> None:
        self.provider = provider
        self.processor = processor
        self.scope = InstrumentationScope(scope)

    def start(self, name: str, parent: Context | None, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        """Start a span under the one of a context, None for the current one. It takes the attributes over."""
        ids, sampler = self.provider.id_generator, self.provider.sampler
        above: SpanContext | None = get_current_span(parent).get_span_context()
        if above is None or not above.is_valid:
            above = None
            trace_id = ids.generate_trace_id()
            random = ids.is_trace_id_random()
        else:
            trace_id = above.trace_id
            random = above.trace_flags.random_trace_id
        result = sampler.should_sample(parent, trace_id, name, kind, attributes)
        decision: Any = result.decision
        flags = TraceFlags.SAMPLED if decision.is_sampled() else TraceFlags.DEFAULT
        if random:
            flags |= TraceFlags.RANDOM_TRACE_ID
        context = SpanContext(trace_id, ids.generate_span_id(), False, TraceFlags(flags), result.trace_state)
        if not decision.is_recording():
            return NonRecordingSpan(context)
        return CallSpan(self, name, context, above, kind, attributes)


class CallSpan(Span):
    """A span that is written to by one task."""

    def __init__(
        self,
        spans: CallSpans,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
    ) -> None:
        self._spans = spans
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes = attributes
        self._events: list[Event] = []
        self._status = Status()
        self._ended = False
        self._start = time_ns()

    def get_span_context(self) -> SpanContext:
        """Return the ids."""
        return self._context

    def is_recording(self) -> bool:
        """Tell whether the span has not ended."""
        return not self._ended

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute."""
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        self._attributes.update(attributes)

    def update_name(self, name: str) -> None:
        """Change the name."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status. It stays as it is once it is OK, and cannot be unset."""
        new = status if isinstance(status, Status) else Status(status, description)
        if self._status.status_code is not StatusCode.OK and new.status_code is not StatusCode.UNSET:
            self._status = new

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an event, as of now."""
        self._events.append(Event(name, dict(attributes or {}), timestamp))

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        """Add an exception as the conventions have it."""
        kind = type(exception)
        known = {
            "exception.type": kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", known | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        """Hand the span over. It happens once."""
        if self._ended:
            return
        self._ended = True
        if self._spans.processor is None:
            return
        readable = ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=self._spans.provider.resource,
            attributes=self._attributes,
            events=self._events,
            kind=self._kind,
            status=self._status,
            start_time=self._start,
            end_time=time_ns() if end_time is None else end_time,
            instrumentation_scope=self._spans.scope,
        )
        self._spans.processor.on_end(readable)
