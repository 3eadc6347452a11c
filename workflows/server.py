"""Composition root of the workflows: one process with the worker and the bridge."""

import asyncio
import logging
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.worker import Worker

from chassis.databases import open_database
from chassis.errors import Unavailable
from chassis.server import Harness
from workflows.activities import Boundary
from workflows.bridge import SEARCH_ATTRIBUTES, Bridge
from workflows.cursor import Cursor
from workflows.monitor_activities import MonitorActivities
from workflows.registry_activities import RegistryActivities
from workflows.release import Release
from workflows.retrain import Retrain
from workflows.rollback import Rollback
from workflows.settings import Settings
from workflows.training_activities import TrainingActivities
from workflows.watch import Watch

_logger = logging.getLogger(__name__)
_GRACE = timedelta(seconds=5)
_PAUSE_SECONDS = 0.5


class TemporalAway(Unavailable):
    """Temporal's server is not reachable."""


async def build(harness: Harness) -> None:
    """Put worker and bridge together; both wait for Temporal as long as it takes."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    database = open_database(settings.database, synchronous="FULL")
    harness.stack.callback(database.close)
    address = harness.profile.address("temporal")
    registry = RegistryActivities(harness.channel("registry"))
    monitor = MonitorActivities(harness.channel("monitor"), settings.judge_seconds)
    training = TrainingActivities(
        harness.log, harness.channel("ingest"), harness.channel("features"), harness.channel("trainer")
    )
    cursor = Cursor(database)
    ready = asyncio.Event()

    async def work() -> None:
        client = await _connected(address, settings.namespace)
        await _add_search_attributes(client, settings.namespace)
        worker = Worker(
            client,
            task_queue=settings.task_queue,
            workflows=[Retrain, Release, Rollback, Watch],
            activities=[
                registry.read_endpoint,
                registry.read_model,
                registry.wait_until_active,
                registry.change_arms,
                registry.wait_for_generation,
                registry.advance_saga,
                registry.finish_saga,
                registry.register_bundle,
                registry.reject_bundle,
                registry.evaluate_gates,
                training.read_position,
                training.read_feature_set,
                training.take_snapshot,
                training.build_training_set,
                training.start_run,
                training.watch_run,
                training.evaluate_bundles,
                monitor.judge_release,
                monitor.examine_periods,
            ],
            interceptors=[Boundary(harness.telemetry)],
            graceful_shutdown_timeout=_GRACE,
        )
        async with worker:
            ready.set()
            await Bridge(harness.log, harness.channel("registry"), client, cursor, settings).run()

    async def check() -> None:
        if not ready.is_set():
            raise TemporalAway(f"waiting for Temporal at {address}")

    harness.add_task("worker and bridge", work)
    harness.add_check("worker", check)


async def _connected(address: str, namespace: str) -> Client:
    while True:
        try:
            return await Client.connect(address, namespace=namespace)
        except RuntimeError as error:
            _logger.info("Temporal is not there yet: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)


async def _add_search_attributes(client: Client, namespace: str) -> None:
    """Make the search attributes known to a server that does not have them."""
    known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
    missing = [key.name for key in SEARCH_ATTRIBUTES if key.name not in known.custom_attributes]
    if missing:
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=namespace, search_attributes=dict.fromkeys(missing, keyword))
        )
