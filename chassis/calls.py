"""What happens around every RPC, as plain functions: caller's context, deadline, span, metric, error.

`chassis.interceptors` puts them under grpc.aio; a threaded server can put them under its own adapter.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.context import (
    ACTOR,
    CAUSATION_ID,
    CORRELATION_ID,
    TRACEPARENT,
    Caller,
    caller,
    enter_call,
    leave_call,
    time_left,
)
from chassis.errors import LinealError
from chassis.ids import random_uuid
from chassis.statuses import code_of, status_of
from chassis.telemetry import Telemetry

_logger = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()
# What is called every second by supervisors would bury everything else.
_UNTRACED = "/grpc.health.v1.Health/"
# What a server tells its own fault by, from the RPC conventions; the others are the caller's.
_SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
# What is kept back of a deadline when it is passed on, so that this service can still answer in time.
_MARGIN_SECONDS = 0.02

# A call that is served begins with no context but what it came with.
_NOTHING = Context()

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(slots=True)
class Call:
    """One RPC on its way: `code` is what it ends with."""

    method: str
    span: Span
    code: str = "OK"
    error: BaseException | None = None


def caller_of(metadata: Metadata) -> Caller:
    """Return who calls, from the metadata of an RPC."""
    return _caller({key: value for key, value in metadata if isinstance(value, str)})


def _caller(values: Mapping[str, str]) -> Caller:
    return Caller(
        values.get(ACTOR, "")[:256] or Caller.actor,
        values.get(CORRELATION_ID, "")[:256] or random_uuid(),
        values.get(CAUSATION_ID, "")[:256],
    )


class ServerCall:
    """Serve one RPC within this block: context, deadline, span and duration are those of the call.

    A class, since generators for each part would take longer than the parts.
    """

    __slots__ = ("_active", "_call", "_name", "_start", "_telemetry", "_token")

    def __init__(self, telemetry: Telemetry, method: str, metadata: Metadata, seconds: float | None) -> None:
        values = {key: value for key, value in metadata if isinstance(value, str)}
        who = _caller(values)
        self._telemetry = telemetry
        self._start = time.perf_counter()
        self._name = ""
        span: Span = trace.INVALID_SPAN
        if not method.startswith(_UNTRACED):
            self._name = name = method[1:]
            parent = _PROPAGATOR.extract(values, _NOTHING) if TRACEPARENT in values else _NOTHING
            known = {"rpc.system.name": "grpc", "rpc.method": name, "lineal.correlation_id": who.correlation_id}
            span = telemetry.calls.start(name, parent, SpanKind.SERVER, known)
        self._call = Call(method, span)
        self._token = enter_call(who, seconds, values.get(TRACEPARENT, ""))
        self._active = otel_context.attach(trace.set_span_in_context(span, _NOTHING))

    def __enter__(self) -> Call:
        return self._call

    def __exit__(self, *_: object) -> None:
        call = self._call
        _finish(call, call.code in _SERVER_FAULTS)
        if self._name:
            seconds = time.perf_counter() - self._start
            self._telemetry.server_duration.record(seconds, self._name, call.code, _traced(call.span))
        otel_context.detach(self._active)
        call.span.end()
        leave_call(self._token)


def failed(call: Call, error: BaseException) -> Status:
    """Note how a call failed and return the status to answer with."""
    code = code_of(error)
    call.code, call.error = code.name, error
    if code is grpc.StatusCode.INTERNAL:
        _logger.error("%s failed", call.method, exc_info=error)
    elif isinstance(error, LinealError):
        _logger.info("%s refused: %s: %s", call.method, error.reason, error.message)
    return status_of(error)


class ClientCall:
    """Make one RPC within this block: span and duration are those of the call."""

    __slots__ = ("_active", "_call", "_name", "_start", "_target", "_telemetry")

    def __init__(self, telemetry: Telemetry, method: str, target: str) -> None:
        self._telemetry = telemetry
        self._target = target
        self._start = time.perf_counter()
        self._name = name = method.lstrip("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, "server.address": target}
        self._call = Call(method, telemetry.calls.start(name, None, SpanKind.CLIENT, attributes))
        self._active = otel_context.attach(trace.set_span_in_context(self._call.span))

    def __enter__(self) -> Call:
        return self._call

    def __exit__(self, *_: object) -> None:
        call = self._call
        _finish(call, call.code != "OK")
        seconds = time.perf_counter() - self._start
        self._telemetry.client_duration.record(seconds, self._name, call.code, _traced(call.span), self._target)
        otel_context.detach(self._active)
        call.span.end()


def client_metadata(service: str) -> list[tuple[str, str]]:
    """Return the metadata that carries the current caller and trace on; without a caller the service acts itself."""
    who = caller()
    actor = who.actor if who.actor != Caller.actor else f"service:{service}"
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    sent = [(ACTOR, actor), (CORRELATION_ID, who.correlation_id), *carrier.items()]
    return [*sent, (CAUSATION_ID, who.causation_id)] if who.causation_id else sent


def client_timeout(given: float | None, default: float) -> float:
    """Return the timeout of a unary call: the given or default one, at most what is left of our own deadline."""
    own = default if given is None else given
    left = time_left()
    return own if left is None else max(0.0, min(own, left - _MARGIN_SECONDS))


def _traced(span: Span) -> SpanContext | None:
    context = span.get_span_context()
    return context if context.trace_flags.sampled else None


def _finish(call: Call, fault: bool) -> None:
    call.span.set_attribute("rpc.response.status_code", call.code)
    if call.code != "OK":
        call.span.set_attribute("error.type", call.code)
    if fault:
        call.span.set_status(StatusCode.ERROR, str(call.error) if call.error else None)
    if call.error is not None and call.code == "INTERNAL":
        call.span.record_exception(call.error)
