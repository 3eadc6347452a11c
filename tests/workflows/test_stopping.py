"""A person's word stops a saga whatever ends in the same moment."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.update.v1 import UpdateRef
from temporalio.api.workflowservice.v1 import PollWorkflowExecutionUpdateRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from workflows import messages as m
from workflows.saga import Saga
from workflows.temporal import connected

pytestmark = pytest.mark.timeout(60)
ORIGIN = m.Origin("probe", "shop")
ACTIVITY_COMPLETED = EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED


@workflow.defn
class Probe(Saga):
    """Waits for an activity, then for ever."""

    @workflow.run
    async def run(self) -> m.SagaEnd:
        async def work() -> str:
            await self._long(m.WAIT_UNTIL_ACTIVE, ORIGIN, "an activity")
            await workflow.wait_condition(lambda: False)
            return "never"

        return await self._carry_out(ORIGIN, "Probe", work)


@activity.defn(name=m.WAIT_UNTIL_ACTIVE.name)
async def wait_until_active(origin: m.Origin) -> m.EndpointView:
    """Return at once."""
    return m.EndpointView(origin.endpoint, 1, [], "", [], False, "{}")


@activity.defn(name=m.ADVANCE_SAGA.name)
async def advance(command: m.Advance) -> m.Position:
    """Record nothing."""
    return m.Position(1)


@activity.defn(name=m.FINISH_SAGA.name)
async def finish(command: m.Finish) -> m.Position:
    """Record nothing."""
    return m.Position(2)


async def test_a_rejection_that_comes_with_the_end_of_an_activity_is_not_lost(temporal: str) -> None:
    client = await connected(temporal, "default")
    queue = f"probe-{uuid4().hex[:8]}"
    sagas: dict[str, Any] = {"workflows": [Probe], "workflow_runner": UnsandboxedWorkflowRunner()}
    activities: dict[str, Any] = {"activities": [wait_until_active, advance, finish]}
    async with Worker(client, task_queue=queue, **sagas):
        handle = await client.start_workflow(Probe.run, id=queue, task_queue=queue)
        await _until(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    async with Worker(client, task_queue=queue, **activities):
        await _until(handle, ACTIVITY_COMPLETED)
    # No worker has been told of the activity's end yet when the rejection comes.
    decision = m.Decision("rejection", "user:ada", "a bad idea")
    rejecting = asyncio.create_task(handle.execute_update("reject", decision, id="rejection", result_type=str))
    await _admitted(client, handle, "rejection")
    async with Worker(client, task_queue=queue, **sagas, **activities):
        await rejecting
        async with asyncio.timeout(10):
            end = await handle.result()
    assert end.state == "compensated"
    assert "a bad idea" in end.outcome


async def _until(handle: WorkflowHandle[Any, Any], kind: EventType.ValueType) -> None:
    async with asyncio.timeout(20):
        while not [event async for event in handle.fetch_history_events() if event.event_type == kind]:
            await asyncio.sleep(0.05)


async def _admitted(client: Client, handle: WorkflowHandle[Any, Any], update: str) -> None:
    """Return once the server holds an update for the next worker."""
    reference = UpdateRef(workflow_execution=WorkflowExecution(workflow_id=handle.id), update_id=update)
    request = PollWorkflowExecutionUpdateRequest(namespace=client.namespace, update_ref=reference)
    async with asyncio.timeout(20):
        while True:
            try:
                await client.workflow_service.poll_workflow_execution_update(request)
                return
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.05)
