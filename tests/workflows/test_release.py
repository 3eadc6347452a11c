import asyncio

import pytest

from lineal.api.registry.v1.endpoint_pb2 import ArmRole, SagaState
from lineal.api.registry.v1.model_pb2 import BundleState
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from tests.workflows.world import World

pytestmark = pytest.mark.timeout(120)
CHAMPION = ArmRole.ARM_ROLE_CHAMPION


async def test_a_first_release_skips_the_canary_and_says_so(shop: World) -> None:
    digest = await shop.bundle(1)
    async with shop.workflows():
        saga = await shop.ended(await shop.release(digest))
        await shop.archived(saga.saga_id, "release-first")
    assert saga.state == SagaState.SAGA_STATE_COMPLETED, saga.outcome
    assert "canary were skipped" in saga.steps[-1].finding
    assert await shop.arms() == {digest: CHAMPION}


async def test_a_good_candidate_is_promoted_and_a_harmful_one_thrown_out(shop: World) -> None:
    first, good, harmful = await shop.bundle(1), await shop.bundle(2), await shop.bundle(3, harmful=True)
    await shop.set_champion(first)
    async with shop.workflows(), shop.traffic() as answers:
        promoted = await shop.ended(await shop.release(good))
        assert promoted.state == SagaState.SAGA_STATE_COMPLETED, promoted.outcome
        assert [step.step for step in promoted.steps] == ["shadow", "canary 25%", "canary 50%", "promotion"]
        assert all(shop.suite.artifacts.exists(step.evidence_digest) for step in promoted.steps[:3])
        assert await shop.arms() == {good: CHAMPION}
        undone = await shop.ended(await shop.release(harmful))
        await shop.archived(promoted.saga_id, "release-promoted")
        await shop.archived(undone.saga_id, "release-thrown-out")
    assert undone.state == SagaState.SAGA_STATE_COMPENSATED
    assert "harm" in undone.outcome
    assert undone.steps[-1].step == "undone"
    assert undone.steps[-1].evidence_digest
    assert await shop.arms() == {good: CHAMPION}
    assert await shop.state_of(harmful) == BundleState.BUNDLE_STATE_REJECTED
    assert {answer.bundle_digest for answer in answers} >= {first, good}
    counters = (await shop.serving.GetCounters(serving_api.GetCountersRequest())).endpoints[0]
    assert counters.failed_requests == 0


async def test_a_rejection_in_the_canary_restores_the_arms(shop: World) -> None:
    first, second = await shop.bundle(1), await shop.bundle(2)
    await shop.set_champion(first)
    async with shop.workflows():
        saga_id = await shop.release(second)
        async with shop.traffic():
            await shop.reached(saga_id, "shadow")
        assert len(await shop.arms()) == 2
        await shop.reject(saga_id)
        saga = await shop.ended(saga_id)
        await shop.archived(saga_id, "release-rejected")
    assert saga.state == SagaState.SAGA_STATE_COMPENSATED
    assert "a bad idea" in saga.outcome
    assert await shop.arms() == {first: CHAMPION}
    assert await shop.state_of(second) == BundleState.BUNDLE_STATE_REJECTED


async def test_a_rollback_stops_a_release_and_brings_the_previous_champion_back(shop: World) -> None:
    first, second, third = [await shop.bundle(seed) for seed in (1, 2, 3)]
    await shop.set_champion(first, second)
    async with shop.workflows():
        release = await shop.release(third)
        await shop.saga(release, lambda saga: True)
        rollback = await shop.rollback()
        saga = await shop.ended(rollback)
        assert (await shop.ended(release)).state == SagaState.SAGA_STATE_COMPENSATED
        await shop.archived(rollback, "rollback")
    assert saga.state == SagaState.SAGA_STATE_COMPLETED, saga.outcome
    assert await shop.arms() == {first: CHAMPION}
    assert await shop.state_of(second) == BundleState.BUNDLE_STATE_REJECTED
    assert await shop.state_of(third) == BundleState.BUNDLE_STATE_REJECTED


async def test_a_promotion_waits_for_a_person_where_the_policy_asks_for_one(world: World) -> None:
    await world.begin("lineage", "ingest", "trainer", "registry", "monitor", "serving", approval_required=True)
    first = await world.bundle(1)
    async with world.workflows():
        saga_id = await world.release(first)
        await world.reached(saga_id, "waiting for a person")
        status = await world.client.get_workflow_handle(saga_id).query("state")
        assert status["state"] == "waiting"
        await world.approve(saga_id)
        saga = await world.ended(saga_id)
        await world.archived(saga_id, "release-approved")
    assert saga.state == SagaState.SAGA_STATE_COMPLETED
    assert any("looks good" in step.finding for step in saga.steps)


async def test_a_release_that_nobody_approves_in_time_is_undone(world: World) -> None:
    await world.begin("lineage", "ingest", "trainer", "registry", "monitor", "serving", approval_required=True)
    digest = await world.bundle(1)
    async with world.workflows(approval_seconds=0.5):
        saga = await world.ended(await world.release(digest))
    assert saga.state == SagaState.SAGA_STATE_COMPENSATED
    assert "nobody decided" in saga.outcome
    assert await world.arms() == {}


async def test_a_saga_cancelled_in_temporal_undoes_itself(shop: World) -> None:
    first, second = await shop.bundle(1), await shop.bundle(2)
    await shop.set_champion(first)
    async with shop.workflows():
        saga_id = await shop.release(second)
        await asyncio.wait_for(_two_arms(shop), 20)
        await shop.client.get_workflow_handle(saga_id).cancel(reason="the wrong bundle")
        saga = await shop.ended(saga_id)
    assert saga.state == SagaState.SAGA_STATE_COMPENSATED
    assert "cancelled" in saga.outcome
    assert await shop.arms() == {first: CHAMPION}


async def _two_arms(shop: World) -> None:
    while len(await shop.arms()) < 2:
        await asyncio.sleep(0.05)
