"""The bridge: events of the log become workflow starts, updates, schedules and requests.

It handles every event at least once: the cursor moves after the effect, and each effect is harmless when it is
repeated. A workflow's id is its saga's, an update's id is its event's, a request's id is made of the alarm's.
"""

import asyncio
import logging
from contextlib import aclosing

import grpc.aio
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from chassis.context import Caller, acting_as
from chassis.errors import AlreadyExists, InvalidArgument, NotFound, RuleViolated
from chassis.events import Event, EventLog
from chassis.ids import request_id_from
from chassis.statuses import error_of
from chassis.telemetry import Telemetry
from lineal.api.monitor.v1.events_pb2 import AlarmRaised
from lineal.api.monitor.v1.report_pb2 import Alarm, AlarmKind
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaKind, SagaState
from lineal.api.registry.v1.events_pb2 import (
    BundleApproved,
    EndpointRegistered,
    SagaApproved,
    SagaFinished,
    SagaRejected,
    SagaRequested,
)
from lineal.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from lineal.api.serving.v1.events_pb2 import ScoringRequested
from workflows import messages as m
from workflows.cursor import Cursor
from workflows.reconciler import Reconciler
from workflows.temporal import Temporal

_logger = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()
_TYPES: tuple[type[Message], ...] = (
    AlarmRaised,
    BundleApproved,
    EndpointRegistered,
    SagaApproved,
    SagaFinished,
    SagaRejected,
    SagaRequested,
    ScoringRequested,
)
_PAUSE_SECONDS = (0.5, 10.0)
# What a service or Temporal will never answer otherwise: such an event is logged and left.
_FINAL = (AlreadyExists, InvalidArgument, NotFound, RuleViolated)
_FINAL_OF_TEMPORAL = (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.NOT_FOUND)


class Bridge:
    """Follows the log and tells Temporal and the registry."""

    def __init__(
        self,
        log: EventLog,
        registry: grpc.aio.Channel,
        temporal: Temporal,
        cursor: Cursor,
        reconciler: Reconciler,
        telemetry: Telemetry,
    ) -> None:
        self._log = log
        self._registry = RegistryServiceStub(registry)
        self._temporal = temporal
        self._cursor = cursor
        self._reconciler = reconciler
        self._telemetry = telemetry

    async def run(self) -> None:
        """Handle events for ever."""
        position = await asyncio.to_thread(self._cursor.read)
        async with aclosing(self._log.subscribe(position, _TYPES)) as deliveries:
            async for delivery in deliveries:
                for event in delivery.events:
                    await self._insist(event)
                    await asyncio.to_thread(self._cursor.write, event.position)

    async def _insist(self, event: Event) -> None:
        """Handle an event; while Temporal or the registry is away, try again."""
        pause, longest = _PAUSE_SECONDS
        while True:
            try:
                await self._act(event)
                return
            except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, grpc.aio.AioRpcError) as error:
                if _is_final(error):
                    _logger.error("event %d (%s) comes to nothing: %s", event.position, event.type, error)
                    return
                _logger.warning("event %d is tried again in %.1f s: %s", event.position, pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _act(self, event: Event) -> None:
        parent = _PROPAGATOR.extract({"traceparent": event.traceparent} if event.traceparent else {})
        attributes: dict[str, str | int] = {
            "lineal.position": event.position,
            "lineal.correlation_id": event.correlation_id,
        }
        name = event.type.rpartition(".")[2]
        span = self._telemetry.tracer.start_span(f"bridge {name}", parent, SpanKind.CONSUMER, attributes)
        who = Caller("service:workflows", event.correlation_id, event.event_id)
        with acting_as(who), trace.use_span(span, end_on_exit=True):
            await self._handle(event)

    async def _handle(self, event: Event) -> None:
        match event.message:
            case SagaRequested() as requested:
                await self._start(event, requested.saga)
            case SagaApproved() as approved:
                await self._temporal.decide(approved.saga_id, "approve", _decision(event, approved.reason))
            case SagaRejected() as rejected:
                await self._temporal.decide(rejected.saga_id, "reject", _decision(event, rejected.reason))
            case BundleApproved() as approved:
                await self._bundle_approved(event, approved)
            case SagaFinished() as finished:
                self._reconciler.archive_later(finished.endpoint, finished.saga_id)
            case ScoringRequested() as scoring:
                # Whether it has ended already the workflow asks: the bridge waits for no serving.
                await self._temporal.score(
                    scoring, asked_by=event.actor, causation_id=event.event_id, traceparent=event.traceparent
                )
            case EndpointRegistered() as registered:
                await self._temporal.watch(registered.endpoint.name)
            # Of wrong features no model is to blame, and a new one would be given the same.
            case AlarmRaised() as raised if raised.alarm.kind != AlarmKind.ALARM_KIND_PARITY:
                await self._retrain(raised.alarm)

    async def _start(self, event: Event, saga: Saga) -> None:
        request = api.GetSagaRequest(saga_id=saga.saga_id, min_position=event.position)
        if (await self._registry.GetSaga(request)).saga.state != SagaState.SAGA_STATE_ACTIVE:
            # Whoever reads an old log anew must not do the past again.
            _logger.info("saga %s has ended already", saga.saga_id)
            return
        await self._temporal.start(
            saga, asked_by=event.actor, causation_id=event.event_id, traceparent=event.traceparent
        )

    async def _bundle_approved(self, event: Event, approved: BundleApproved) -> None:
        """Tell the retrain that waits for this bundle; others note it and go on."""
        decision = m.Decision(event.event_id, event.actor, approved.reason, approved.bundle_digest)
        bundle = (await self._registry.GetBundle(api.GetBundleRequest(digest=approved.bundle_digest))).bundle
        endpoints = (await self._registry.ListEndpoints(api.ListEndpointsRequest(page_size=1000))).endpoints
        for found in endpoints:
            if not found.active_saga_id or found.endpoint.model != bundle.model:
                continue
            request = api.GetSagaRequest(saga_id=found.active_saga_id)
            if (await self._registry.GetSaga(request)).saga.kind == SagaKind.SAGA_KIND_RETRAIN:
                await self._temporal.decide(found.active_saga_id, "bundle_approved", decision)

    async def _retrain(self, alarm: Alarm) -> None:
        request = api.RequestRetrainRequest(
            request_id=request_id_from("retrain", alarm.alarm_id),
            endpoint=alarm.endpoint,
            reason=f"alarm: {alarm.finding}",
            alarm_id=alarm.alarm_id,
            training_end_time=alarm.period_end_time,
        )
        try:
            await self._registry.RequestRetrain(request)
        except grpc.aio.AioRpcError as error:
            meant = error_of(error)
            if not isinstance(meant, _FINAL):
                raise
            _logger.info("alarm %s starts no retrain: %s", alarm.alarm_id, meant.message)


def _decision(event: Event, reason: str) -> m.Decision:
    return m.Decision(event.event_id, event.actor, reason)


def _is_final(error: Exception) -> bool:
    if isinstance(error, RPCError):
        return error.status in _FINAL_OF_TEMPORAL
    return isinstance(error, grpc.aio.AioRpcError) and isinstance(error_of(error), _FINAL)
