"""The schedule `parity-<endpoint>` checks predictions; the alarm of a difference starts no retrain."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client, ScheduleHandle
from temporalio.service import RPCError, RPCStatusCode

from chassis.ids import new_request_id
from chassis.server import start
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from lineal.profile import Profile
from tests.integration.monitor.world import ENDPOINT, Taxi, at, ends
from tests.integration.running import running
from workflows import messages as m
from workflows.server import build
from workflows.settings import Settings

_HISTORY = Path(__file__).parent / "histories" / "parity.json"
_RECORD = "LINEAL_RECORD_HISTORIES"
_HOUR = 3600.0


class Supervised(Taxi):
    """The endpoint as registry has it, with a model that any other alarm would train anew."""

    async def declare_endpoint(self) -> None:
        self.registry = self.suite.stub("registry")
        model = Model(name="late", feature_set="late")
        model.retrain.on_alarm = True
        await self.registry.RegisterModel(api.RegisterModelRequest(request_id=new_request_id(), model=model))
        await self.register(ENDPOINT)

    async def register(self, endpoint: str) -> None:
        declared = Endpoint(name=endpoint, model="late")
        request = api.RegisterEndpointRequest(request_id=new_request_id(), endpoint=declared)
        await self.registry.RegisterEndpoint(request)


@pytest.fixture
async def taxi(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with running(tmp_path) as suite:
        await suite.start("lineage", "ingest", "features", "registry", "monitor")
        taxi = Supervised(suite)
        await taxi.begin()
        yield taxi


async def scheduled(client: Client, endpoint: str) -> ScheduleHandle:
    """Wait until the bridge has made an endpoint's schedule."""
    handle = client.get_schedule_handle(f"parity-{endpoint}")
    async with asyncio.timeout(20):
        while True:
            try:
                await handle.describe()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(0.05)
            else:
                return handle


async def started(handle: ScheduleHandle) -> str:
    """Wait until a schedule has started a workflow; return its id."""
    async with asyncio.timeout(20):
        while not (actions := (await handle.describe()).info.recent_actions):
            await asyncio.sleep(0.05)
    action = actions[0].action
    return str(action.workflow_id)  # type: ignore[attr-defined]


async def test_a_check_by_schedule_finds_a_difference_and_trains_nothing(taxi: Supervised, temporal: str) -> None:
    wrong, *right = await taxi.serve("first", at(500), await taxi.send(ends(), taxi.rows[0]))
    wrong.numeric_values[taxi.bundle.numeric.index("driver_delays_n")] += 1
    await taxi.record(wrong, *right)
    profile = taxi.suite.folder / "profile-workflows.yaml"
    Profile(
        {name: taxi.suite.address(name) for name in taxi.suite.servers}
        | {"serving": "127.0.0.1:1", "temporal": temporal}
    ).save(profile)
    settings = Settings(
        port=0,
        data_dir=taxi.suite.folder,
        profile=profile,
        drain_seconds=0,
        task_queue="taxi",
        watch_seconds=_HOUR,
        parity_seconds=_HOUR,
    )
    async with start("workflows", settings, build):
        client = await Client.connect(temporal)
        schedule = await scheduled(client, ENDPOINT)
        await schedule.trigger()
        workflow = client.get_workflow_handle(await started(schedule), result_type=m.ParityEnd)
        found = await workflow.result()
        assert (found.predictions, found.values, found.differing_values) == (3, 9, 1)
        assert ["driver_delays_n of prediction first/0 was served as" in alarm for alarm in found.alarms] == [True]
        # The bridge goes in the order of the log: when it is here it has seen the alarm.
        await taxi.register("after")
        await scheduled(client, "after")
        assert not (await taxi.registry.ListSagas(api.ListSagasRequest(endpoint=ENDPOINT))).sagas
        if os.environ.get(_RECORD):
            history = (await workflow.fetch_history()).to_json()
            await asyncio.to_thread(_HISTORY.write_text, history, encoding="utf-8")
