"""The bridge: events of the log become workflow starts, updates, schedules and requests.

It handles every event at least once: the cursor moves after the effect, and each effect is harmless when it is
repeated. A workflow's id is its saga's, an update's id is its event's, a request's id is made of the alarm's.
"""

import asyncio
import logging
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    WorkflowFailureError,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from chassis.context import Caller, acting_as
from chassis.errors import LinealError, RuleViolated
from chassis.events import Event, EventLog
from chassis.ids import request_id_from
from chassis.statuses import error_of
from lineal.api.monitor.v1.events_pb2 import AlarmRaised
from lineal.api.monitor.v1.report_pb2 import Alarm
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
from workflows import messages as m
from workflows.cursor import Cursor
from workflows.release import Release
from workflows.retrain import Retrain
from workflows.rollback import Rollback
from workflows.saga import BUNDLE, STATE
from workflows.settings import Settings
from workflows.watch import Watch

_logger = logging.getLogger(__name__)
_ENDPOINT = SearchAttributeKey.for_keyword("LinealEndpoint")
_SAGA = SearchAttributeKey.for_keyword("LinealSaga")
SEARCH_ATTRIBUTES = (_ENDPOINT, _SAGA, BUNDLE, STATE)
_TYPES: tuple[type[Message], ...] = (
    AlarmRaised,
    BundleApproved,
    EndpointRegistered,
    SagaApproved,
    SagaFinished,
    SagaRejected,
    SagaRequested,
)
_PAUSE_SECONDS = (0.5, 10.0)
_CATCHUP = timedelta(seconds=60)
_WORKFLOWS: dict[int, Any] = {
    SagaKind.SAGA_KIND_RETRAIN: Retrain.run,
    SagaKind.SAGA_KIND_RELEASE: Release.run,
    SagaKind.SAGA_KIND_ROLLBACK: Rollback.run,
}


class Bridge:
    """Follows the log and tells Temporal and the registry."""

    def __init__(
        self, log: EventLog, registry: grpc.aio.Channel, client: Client, cursor: Cursor, settings: Settings
    ) -> None:
        self._log = log
        self._registry = RegistryServiceStub(registry)
        self._client = client
        self._cursor = cursor
        self._settings = settings
        self._archiving: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Handle events for ever."""
        position = await asyncio.to_thread(self._cursor.read)
        await self._archive_rest()
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
                who = Caller("service:workflows", event.correlation_id, event.event_id)
                with acting_as(who):
                    await self._handle(event)
                return
            except (RPCError, grpc.aio.AioRpcError, OSError) as error:
                _logger.warning("event %d is tried again in %.1f s: %s", event.position, pause, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _handle(self, event: Event) -> None:
        match event.message:
            case SagaRequested() as requested:
                await self._start(event, requested.saga)
            case SagaApproved() as approved:
                await self._update(approved.saga_id, "approve", _decision(event, approved.reason))
            case SagaRejected() as rejected:
                await self._update(rejected.saga_id, "reject", _decision(event, rejected.reason))
            case BundleApproved() as approved:
                await self._bundle_approved(event, approved)
            case SagaFinished() as finished:
                self._archive_later(finished.endpoint, finished.saga_id)
            case EndpointRegistered() as registered:
                await self._watch(registered.endpoint.name)
            case AlarmRaised() as raised:
                await self._retrain(raised.alarm)

    async def _start(self, event: Event, saga: Saga) -> None:
        name = SagaKind.Name(saga.kind).removeprefix("SAGA_KIND_").lower()
        try:
            await self._client.start_workflow(
                _WORKFLOWS[saga.kind],
                self._input(event, saga),
                id=saga.saga_id,
                task_queue=self._settings.task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"{name.capitalize()} on {saga.endpoint}",
                static_details=f"Asked for by {event.actor}: {saga.reason}\n\nLog position {event.position}.",
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(_ENDPOINT, saga.endpoint),
                        SearchAttributePair(_SAGA, saga.saga_id),
                        SearchAttributePair(BUNDLE, saga.bundle_digest),
                        SearchAttributePair(STATE, "active"),
                    ]
                ),
            )
        except WorkflowAlreadyStartedError:
            _logger.info("saga %s was started before", saga.saga_id)

    def _input(self, event: Event, saga: Saga) -> m.RetrainInput | m.ReleaseInput | m.RollbackInput:
        origin = m.Origin(saga.saga_id, saga.endpoint, event.event_id, event.traceparent)
        if saga.kind == SagaKind.SAGA_KIND_RETRAIN:
            return m.RetrainInput(
                origin,
                saga.reason,
                saga.alarm_id,
                _text(saga, "training_start_time"),
                _text(saga, "training_end_time"),
                list(saga.exclude_columns),
                saga.feature_set,
                self._settings.approval_seconds,
            )
        if saga.kind == SagaKind.SAGA_KIND_RELEASE:
            return m.ReleaseInput(origin, saga.bundle_digest, saga.reason, self._settings.approval_seconds)
        return m.RollbackInput(origin, saga.reason)

    async def _update(self, saga_id: str, update: str, decision: m.Decision) -> None:
        try:
            handle = self._client.get_workflow_handle(saga_id)
            await handle.execute_update(update, decision, id=decision.event_id, result_type=str)
        except WorkflowUpdateFailedError as error:
            _logger.warning("saga %s does not take %r: %s", saga_id, update, error.cause)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            _logger.warning("saga %s has ended, %r comes too late", saga_id, update)

    async def _bundle_approved(self, event: Event, approved: BundleApproved) -> None:
        decision = m.Decision(event.event_id, event.actor, approved.reason, approved.bundle_digest)
        page = await self._registry.ListSagas(api.ListSagasRequest())
        for saga in page.sagas:
            retrain = saga.kind == SagaKind.SAGA_KIND_RETRAIN and saga.state == SagaState.SAGA_STATE_ACTIVE
            if retrain and saga.bundle_digest == approved.bundle_digest:
                await self._update(saga.saga_id, "bundle_approved", decision)

    async def _watch(self, endpoint: str) -> None:
        name = f"watch-{endpoint}"
        every = ScheduleIntervalSpec(every=timedelta(seconds=self._settings.watch_seconds))
        try:
            await self._client.create_schedule(
                name,
                Schedule(
                    action=ScheduleActionStartWorkflow(
                        Watch.run,
                        m.WatchInput(endpoint),
                        id=name,
                        task_queue=self._settings.task_queue,
                        static_summary=f"Watch {endpoint}",
                        typed_search_attributes=TypedSearchAttributes([SearchAttributePair(_ENDPOINT, endpoint)]),
                    ),
                    spec=ScheduleSpec(intervals=[every]),
                    policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCHUP),
                ),
            )
        except ScheduleAlreadyRunningError:
            _logger.info("schedule %s is there already", name)

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
            if not isinstance(meant, RuleViolated):
                raise
            _logger.info("alarm %s starts no retrain: %s", alarm.alarm_id, meant.message)

    def _archive_later(self, endpoint: str, saga_id: str) -> None:
        task = asyncio.create_task(self._archive(endpoint, saga_id))
        self._archiving.add(task)
        task.add_done_callback(self._archiving.discard)

    async def _archive(self, endpoint: str, saga_id: str) -> None:
        """Store a saga's history once its workflow has closed; what fails is tried again at the next start."""
        handle = self._client.get_workflow_handle(saga_id)
        try:
            try:
                await handle.result()
            except WorkflowFailureError:
                _logger.info("the workflow of saga %s ended with a failure; its history is kept", saga_id)
            history = (await handle.fetch_history()).to_json()
            await self._registry.ArchiveSaga(
                api.ArchiveSagaRequest(
                    request_id=request_id_from("archive", saga_id),
                    endpoint=endpoint,
                    saga_id=saga_id,
                    history=history.encode(),
                )
            )
        except (RPCError, grpc.aio.AioRpcError, LinealError) as error:
            _logger.warning("the history of saga %s is not archived yet: %s", saga_id, error)

    async def _archive_rest(self) -> None:
        page = await self._registry.ListSagas(api.ListSagasRequest(page_size=1000))
        for saga in page.sagas:
            if saga.state != SagaState.SAGA_STATE_ACTIVE and not saga.history_digest:
                self._archive_later(saga.endpoint, saga.saga_id)


def _decision(event: Event, reason: str) -> m.Decision:
    return m.Decision(event.event_id, event.actor, reason)


def _text(saga: Saga, name: str) -> str:
    moment: Timestamp = getattr(saga, name)
    return moment.ToJsonString() if saga.HasField(name) else ""  # type: ignore[arg-type]
