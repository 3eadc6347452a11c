"""Composition root of the workflows: one process with the worker, the bridge and the reconciler."""

import asyncio
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from chassis.databases import open_database
from chassis.errors import Unavailable
from chassis.server import Harness
from workflows.activities import Boundary
from workflows.bridge import Bridge
from workflows.cursor import Cursor
from workflows.monitor_activities import MonitorActivities
from workflows.parity import Parity
from workflows.reconciler import Reconciler
from workflows.registry_activities import RegistryActivities
from workflows.release import Release
from workflows.retrain import Retrain
from workflows.rollback import Rollback
from workflows.score import Score
from workflows.scoring_activities import ScoringActivities
from workflows.settings import Settings
from workflows.temporal import Temporal, connected
from workflows.training_activities import TrainingActivities
from workflows.watch import Watch

_GRACE = timedelta(seconds=5)
# How long a workflow that a lost worker had in its cache waits before another worker takes it.
_STICKY = timedelta(seconds=3)
WORKFLOWS = (Retrain, Release, Rollback, Score, Watch, Parity)


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
    scoring = ScoringActivities(harness.channel("serving"))
    cursor = Cursor(database)
    client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        found = await connected(address, settings.namespace)
        worker = Worker(
            found,
            task_queue=settings.task_queue,
            workflows=WORKFLOWS,
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
                scoring.read_scoring,
                scoring.advance_scoring,
                scoring.run_scoring,
                scoring.fail_scoring,
                monitor.judge_release,
                monitor.examine_periods,
                monitor.check_parity,
            ],
            interceptors=[Boundary(harness.telemetry)],
            graceful_shutdown_timeout=_GRACE,
            sticky_queue_schedule_to_start_timeout=_STICKY,
        )
        temporal = Temporal(found, settings)
        reconciler = Reconciler(harness.channel("registry"), temporal)
        bridge = Bridge(harness.log, harness.channel("registry"), temporal, cursor, reconciler, harness.telemetry)
        async with worker, asyncio.TaskGroup() as tasks:
            client.set_result(found)
            tasks.create_task(bridge.run())
            tasks.create_task(reconciler.run())

    async def check() -> None:
        if not client.done() or not await client.result().service_client.check_health():
            raise TemporalAway(f"waiting for Temporal at {address}")

    harness.add_task("worker and bridge", work)
    harness.add_check("temporal", check)
