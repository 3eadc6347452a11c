"""What goes wrong around sagas only delays them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lineal.api.registry.v1.endpoint_pb2 import ArmRole, SagaState
from lineal.api.registry.v1.events_pb2 import SagaRequested
from tests.workflows.world import World

pytestmark = pytest.mark.timeout(120)


async def test_a_worker_that_is_killed_in_the_canary_is_followed_by_another(shop: World) -> None:
    first, second = await shop.bundle(1), await shop.bundle(2)
    await shop.set_champion(first)
    saga_id = await shop.release(second)
    async with shop.traffic():
        async with _process(shop) as process:
            await shop.reached(saga_id, "shadow")
            process.kill()
        async with shop.workflows():
            saga = await shop.ended(saga_id)
    assert saga.state == SagaState.SAGA_STATE_COMPLETED, saga.outcome
    assert await shop.arms() == {second: ArmRole.ARM_ROLE_CHAMPION}


async def test_an_old_log_read_anew_repeats_nothing(shop: World) -> None:
    first = await shop.bundle(1)
    async with shop.workflows():
        saga_id = await shop.release(first)
        await shop.ended(saga_id)
        await shop.archived(saga_id)
    before = await shop.log.head()
    for file in (shop.suite.folder / "workflows").glob("workflows.db*"):
        file.unlink()
    async with shop.workflows():
        # The bridge has come to the end of the old log once it acts on something new.
        second = await shop.bundle(2)
        later = await shop.release(second)
        await _described(shop, later)
    events = await shop.log.read_stream(f"endpoint/{shop.endpoint}")
    assert [event.message.saga.saga_id for event in events if isinstance(event.message, SagaRequested)] == [
        saga_id,
        later,
    ]
    assert not [event for event in events if before < event.position and "Finished" in event.type]


async def test_a_saga_whose_workflow_was_terminated_starts_afresh(shop: World) -> None:
    first = await shop.bundle(1)
    await shop.set_champion(first)
    second = await shop.bundle(2)
    async with shop.workflows():
        saga_id = await shop.release(second)
        await _described(shop, saga_id)
        await shop.client.get_workflow_handle(saga_id).terminate("a mistake")
    async with shop.workflows(), shop.traffic():
        saga = await shop.ended(saga_id)
    assert saga.state == SagaState.SAGA_STATE_COMPLETED, saga.outcome
    assert await shop.arms() == {second: ArmRole.ARM_ROLE_CHAMPION}


async def _described(shop: World, saga_id: str) -> None:
    """Return once Temporal knows the saga, with what its UI shows."""
    async with asyncio.timeout(20):
        while True:
            found = [each async for each in shop.client.list_workflows(f"LinealSaga = '{saga_id}'")]
            if found:
                attributes = {pair.key.name: pair.value for pair in found[0].typed_search_attributes.search_attributes}
                assert attributes["LinealEndpoint"] == shop.endpoint
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _process(shop: World) -> AsyncIterator[Any]:
    """Run `python -m workflows` within a block; whoever kills it does so inside."""
    environment = os.environ | {
        "LINEAL_DATA_DIR": str(shop.suite.folder),
        "LINEAL_PROFILE": str(shop.profile),
        "LINEAL_WORKFLOWS_PORT": "0",
        "LINEAL_WORKFLOWS_TASK_QUEUE": shop.queue,
        "LINEAL_WORKFLOWS_JUDGE_SECONDS": "0.1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workflows", env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
