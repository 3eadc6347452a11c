"""The span of an RPC, for a third of what the SDK's own costs.

One coroutine writes it, so it needs no lock; its attributes are ours, so nobody has to clean, count and copy them.
Everything else is the SDK's: ids, sampler, resource, and the processors, which read it as they read the SDK's.
"""

import traceback
from collections.abc import Mapping
from time import time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
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

_UNSET = Status()
_FLAGS = {
    (sampled, random): TraceFlags(sampled * TraceFlags.SAMPLED | random * TraceFlags.RANDOM_TRACE_ID)
    for sampled in (False, True)
    for random in (False, True)
}


class CallSpans:
    """Starts the spans of RPCs."""

    def __init__(self, provider: TracerProvider, processor: SpanProcessor | None, scope: str) -> None:
        self.provider = provider
        self.processor = processor
        self.scope = InstrumentationScope(scope)
        # What the sampler that is there by default decides is known without asking it.
        self._follows_parent = provider.sampler is DEFAULT_ON

    def start(self, name: str, parent: Context | None, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        """Start a span under the one of a context, None for the current one. It takes the attributes over."""
        ids = self.provider.id_generator
        above: SpanContext | None = None
        if parent is None or parent:
            above = get_current_span(parent).get_span_context()
        if above is None or not above.is_valid:
            above = None
            trace_id = ids.generate_trace_id()
            random = ids.is_trace_id_random()
        else:
            trace_id = above.trace_id
            random = above.trace_flags.random_trace_id
        if self._follows_parent:
            sampled = recorded = above is None or above.trace_flags.sampled
            state = None if above is None else above.trace_state
        else:
            result = self.provider.sampler.should_sample(parent, trace_id, name, kind, attributes)
            sampled = result.decision is Decision.RECORD_AND_SAMPLE
            recorded = result.decision is not Decision.DROP
            state = result.trace_state
        context = SpanContext(trace_id, ids.generate_span_id(), False, _FLAGS[sampled, random], state)
        return CallSpan(self, name, context, above, kind, attributes) if recorded else NonRecordingSpan(context)


class CallSpan(Span, ReadableSpan):
    """A span that is written to by one task, and read by processors once it has ended."""

    def __init__(
        self,
        spans: CallSpans,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
    ) -> None:
        self._processor = spans.processor
        self._written = attributes
        self._noted: list[Event] = []
        ReadableSpan.__init__(
            self,
            name=name,
            context=context,
            parent=parent,
            resource=spans.provider.resource,
            attributes=attributes,
            events=self._noted,
            kind=kind,
            status=_UNSET,
            start_time=time_ns(),
            instrumentation_scope=spans.scope,
        )

    def get_span_context(self) -> SpanContext:
        """Return the ids."""
        assert self._context is not None
        return self._context

    def is_recording(self) -> bool:
        """Tell whether the span has not ended."""
        return self._end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute."""
        self._written[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        self._written.update(attributes)

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
        self._noted.append(Event(name, dict(attributes or {}), timestamp))

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
        if self._end_time is not None:
            return
        self._end_time = time_ns() if end_time is None else end_time
        if self._processor is not None:
            self._processor.on_end(self)
