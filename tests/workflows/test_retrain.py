from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.monitor.v1.events_pb2 import AlarmRaised
from lineal.api.monitor.v1.report_pb2 import Alarm
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import ArmRole, SagaKind, SagaState
from lineal.api.registry.v1.model_pb2 import BundleState, Model
from tests.workflows.world import FEATURES, ORDERS, RESULTS, World, draw, rid

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
async def history(world: World) -> World:
    """A world with a year of orders and what came of them, and no champion."""
    await world.begin("lineage", "ingest", "features", "trainer", "registry", "monitor", "serving")
    features = world.suite.stub("features")
    declared = features_api.RegisterFeatureSetRequest(
        request_id=rid(), feature_set=FEATURES, min_position=await world.log.head()
    )
    await features.RegisterFeatureSet(declared)
    world.trained = True
    amount, shop, unpaid = draw(1500, 11)
    moments = [START + timedelta(hours=hour) for hour in range(1500)]
    rows = range(1500)
    await world.send(ORDERS, [{"id": f"o{n}", "amount": amount[n], "shop": shop[n], "at": moments[n]} for n in rows])
    await world.send(RESULTS, [{"id": f"o{n}", "unpaid": unpaid[n], "at": moments[n]} for n in rows])
    return world


async def test_retrains_release_what_passes_the_gates_and_reject_what_does_not(history: World) -> None:
    world = history
    async with world.workflows():
        first = await world.ended(await world.retrain(), 60)
        assert first.state == SagaState.SAGA_STATE_COMPLETED, first.outcome
        assert [step.step for step in first.steps] == ["snapshots", "training set", "run", "gates", "promotion"]
        assert "1,500 rows" in first.steps[0].finding
        assert await world.arms() == {first.bundle_digest: ArmRole.ARM_ROLE_CHAMPION}
        await world.archived(first.saga_id, "retrain-first")

        async with world.traffic():
            second_id = await _alarmed(world)
            second = await world.ended(second_id, 60)
        assert second.state == SagaState.SAGA_STATE_COMPLETED, second.outcome
        assert second.alarm_id
        # The alarm's period ended after 1,000 hours: what came later is not in the training set.
        assert second.steps[1].finding.startswith("1,000 rows")
        assert await world.arms() == {second.bundle_digest: ArmRole.ARM_ROLE_CHAMPION}
        await world.archived(second_id, "retrain-alarm")

        third = await world.ended(await world.retrain(exclude_columns=["amount"]), 60)
        assert third.state == SagaState.SAGA_STATE_COMPENSATED
        assert "gate" in third.outcome
        assert await world.state_of(third.bundle_digest) == BundleState.BUNDLE_STATE_REJECTED
        assert await world.arms() == {second.bundle_digest: ArmRole.ARM_ROLE_CHAMPION}
        await world.archived(third.saga_id, "retrain-gate-failed")

        model = (await world.registry.GetModel(api.GetModelRequest(name="unpaid"))).model
        changed = Model()
        changed.CopyFrom(model)
        changed.gates.approval_required = True
        await world.registry.RegisterModel(api.RegisterModelRequest(request_id=rid(), model=changed))
        fourth_id = await world.retrain()
        waiting = await world.reached(fourth_id, "waiting for a person")
        await world.registry.ApproveBundle(
            api.ApproveBundleRequest(request_id=rid(), bundle_digest=waiting.bundle_digest, reason="fine")
        )
        approved = await world.reached(fourth_id, "approved")
        assert "fine" in approved.steps[-1].finding
        await world.reject(fourth_id)
        assert (await world.ended(fourth_id)).state == SagaState.SAGA_STATE_COMPENSATED


async def _alarmed(world: World) -> str:
    """Raise an alarm as monitor does; return the retrain that it leads to."""
    end = Timestamp()
    end.FromDatetime(START + timedelta(hours=1000))
    alarm = Alarm(alarm_id=str(uuid4()), endpoint=world.endpoint, finding="amounts drifted", period_end_time=end)
    await world.log.append(
        f"monitor/{world.endpoint}", [AlarmRaised(alarm=alarm)], request_id=rid(), expected_revision=None
    )
    async for delivery in world.log.subscribe(0):
        for event in delivery.events:
            saga = getattr(event.message, "saga", None)
            if saga is not None and saga.kind == SagaKind.SAGA_KIND_RETRAIN and saga.alarm_id == alarm.alarm_id:
                return str(saga.saga_id)
    raise AssertionError
