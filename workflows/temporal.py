"""What the bridge asks of Temporal: start a saga, pass on a person's word, keep a schedule, fetch a history."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
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

from lineal.api.registry.v1.endpoint_pb2 import Saga, SagaKind
from lineal.api.serving.v1.events_pb2 import ScoringRequested
from workflows import messages as m
from workflows.parity import Parity
from workflows.release import Release
from workflows.retrain import Retrain
from workflows.rollback import Rollback
from workflows.saga import BUNDLE, STATE
from workflows.score import Score
from workflows.scoring_messages import ScoreInput
from workflows.settings import Settings
from workflows.watch import Watch

_logger = logging.getLogger(__name__)
_ENDPOINT = SearchAttributeKey.for_keyword("LinealEndpoint")
_SAGA = SearchAttributeKey.for_keyword("LinealSaga")
_SEARCH_ATTRIBUTES = (_ENDPOINT, _SAGA, BUNDLE, STATE)
_WORKFLOWS: dict[int, Any] = {
    SagaKind.SAGA_KIND_RETRAIN: Retrain.run,
    SagaKind.SAGA_KIND_RELEASE: Release.run,
    SagaKind.SAGA_KIND_ROLLBACK: Rollback.run,
}
# What fell due while Temporal was away longer than this is not made up for: the next examination covers it.
_CATCHUP = timedelta(seconds=60)
_UPDATE = timedelta(seconds=30)
_RECONNECT_SECONDS = 0.5


async def connected(address: str, namespace: str) -> Client:
    """Connect to Temporal's server, as long as it takes, and make the search attributes known to it."""
    while True:
        try:
            client = await Client.connect(address, namespace=namespace)
            await _add_search_attributes(client, namespace)
            return client
        except (RuntimeError, RPCError) as error:
            _logger.info("Temporal is not there yet: %s", error)
            await asyncio.sleep(_RECONNECT_SECONDS)


async def _add_search_attributes(client: Client, namespace: str) -> None:
    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
    missing = [key.name for key in _SEARCH_ATTRIBUTES if key.name not in known.custom_attributes]
    if missing:
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=namespace, search_attributes=dict.fromkeys(missing, keyword))
        )


class Temporal:
    """Sagas and schedules on one Temporal namespace. All methods may be repeated without harm."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    async def start(self, saga: Saga, *, asked_by: str, causation_id: str = "", traceparent: str = "") -> None:
        """Start the workflow of a saga, unless it runs or has completed.

        One that somebody terminated in Temporal starts afresh: its saga still holds the endpoint and must end.
        """
        name = SagaKind.Name(saga.kind).removeprefix("SAGA_KIND_").capitalize()
        about = f" of `{saga.bundle_digest[:12]}`" if saga.bundle_digest else ""
        alarm = f"\n\nalarm `{saga.alarm_id}`" if saga.alarm_id else ""
        attributes = [
            SearchAttributePair(_ENDPOINT, saga.endpoint),
            SearchAttributePair(_SAGA, saga.saga_id),
            SearchAttributePair(STATE, "active"),
        ]
        if saga.bundle_digest:
            attributes.append(SearchAttributePair(BUNDLE, saga.bundle_digest))
        await self._start(
            _WORKFLOWS[saga.kind],
            self._input(saga, m.Origin(saga.saga_id, saga.endpoint, causation_id, traceparent)),
            f"{name}{about} on **{saga.endpoint}**",
            f"Asked for by {asked_by}: {saga.reason or 'no reason given'}{alarm}",
            attributes,
        )

    async def score(self, requested: ScoringRequested, *, asked_by: str, causation_id: str, traceparent: str) -> None:
        """Start the workflow of a scoring, unless it runs or has completed."""
        scoring_id, bundle = requested.scoring_id, requested.plan.bundle_digest
        saga_id = f"score-{scoring_id}"
        attributes = [
            SearchAttributePair(_SAGA, saga_id),
            SearchAttributePair(STATE, "active"),
            SearchAttributePair(BUNDLE, bundle),
        ]
        what = requested.plan.snapshot.dataset or f"past predictions of {requested.plan.predictions.endpoint}"
        await self._start(
            Score.run,
            ScoreInput(m.Origin(saga_id, "", causation_id, traceparent), scoring_id),
            f"Score **{what}** with `{bundle[:12]}`",
            f"Asked for by {asked_by}",
            attributes,
        )

    async def _start(
        self,
        run: Any,
        given: m.RetrainInput | m.ReleaseInput | m.RollbackInput | ScoreInput,
        summary: str,
        details: str,
        attributes: list[SearchAttributePair[str]],
    ) -> None:
        saga_id = given.origin.saga_id
        try:
            await self._client.start_workflow(
                run,
                given,
                id=saga_id,
                task_queue=self._settings.task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=summary[:200],
                static_details=details,
                search_attributes=TypedSearchAttributes(attributes),
            )
        except WorkflowAlreadyStartedError:
            _logger.info("the workflow of saga %s has completed before", saga_id)

    async def decide(self, saga_id: str, update: str, decision: m.Decision) -> None:
        """Pass a person's word on to a saga; one that comes too late or makes no sense is logged."""
        try:
            handle = self._client.get_workflow_handle(saga_id)
            await handle.execute_update(update, decision, id=decision.event_id, result_type=str, rpc_timeout=_UPDATE)
        except WorkflowUpdateFailedError as error:
            _logger.warning("saga %s does not take %r: %s", saga_id, update, error.cause)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            _logger.warning("saga %s has ended, %r comes too late", saga_id, update)

    async def watch(self, endpoint: str) -> None:
        """Keep the schedules that examine an endpoint's periods and check its parity, as often as the settings say."""
        await self._keep("watch", Watch.run, endpoint, self._settings.watch_seconds)
        await self._keep("parity", Parity.run, endpoint, self._settings.parity_seconds)

    async def _keep(self, what: str, run: Any, endpoint: str, seconds: float) -> None:
        """Keep a schedule that runs a workflow for an endpoint."""
        name = f"{what}-{endpoint}"
        every = timedelta(seconds=seconds)
        spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)])
        action = ScheduleActionStartWorkflow(
            run,
            m.WatchInput(endpoint),
            id=name,
            task_queue=self._settings.task_queue,
            static_summary=f"{what.capitalize()} **{endpoint}**",
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(_ENDPOINT, endpoint)]),
        )
        policy = SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCHUP)
        try:
            await self._client.create_schedule(name, Schedule(action=action, spec=spec, policy=policy))
        except ScheduleAlreadyRunningError:
            handle = self._client.get_schedule_handle(name)
            found = (await handle.describe()).schedule.spec.intervals
            if [interval.every for interval in found] != [every]:
                await handle.update(lambda given: _respecified(given, spec))

    async def history(self, saga_id: str) -> bytes | None:
        """Return the history of a saga's workflow as JSON once it has closed; None when Temporal does not have it."""
        handle = self._client.get_workflow_handle(saga_id)
        try:
            await handle.result()
        except WorkflowFailureError:
            _logger.info("the workflow of saga %s did not complete; its history is kept all the same", saga_id)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None
        return (await handle.fetch_history()).to_json().encode()

    def _input(self, saga: Saga, origin: m.Origin) -> m.RetrainInput | m.ReleaseInput | m.RollbackInput:
        if saga.kind == SagaKind.SAGA_KIND_RETRAIN:
            return m.RetrainInput(
                origin,
                saga.reason,
                saga.alarm_id,
                saga.training_start_time.ToJsonString() if saga.HasField("training_start_time") else "",
                saga.training_end_time.ToJsonString() if saga.HasField("training_end_time") else "",
                list(saga.exclude_columns),
                saga.feature_set,
                self._settings.approval_seconds,
            )
        if saga.kind == SagaKind.SAGA_KIND_RELEASE:
            return m.ReleaseInput(origin, saga.bundle_digest, saga.reason, self._settings.approval_seconds)
        return m.RollbackInput(origin, saga.reason)


def _respecified(given: ScheduleUpdateInput, spec: ScheduleSpec) -> ScheduleUpdate:
    given.description.schedule.spec = spec
    return ScheduleUpdate(schedule=given.description.schedule)
