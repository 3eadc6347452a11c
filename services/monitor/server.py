"""Composition root of monitor."""

from datetime import timedelta

from chassis.databases import open_database
from chassis.server import Harness
from lineal.api.monitor.v1 import contest_service_pb2, monitor_service_pb2
from lineal.api.monitor.v1.contest_service_pb2_grpc import add_ContestServiceServicer_to_server
from lineal.api.monitor.v1.monitor_service_pb2_grpc import add_MonitorServiceServicer_to_server
from services.monitor.application import Monitor
from services.monitor.contest_tables import ContestTables
from services.monitor.contests import Contests
from services.monitor.explanations import Explanations
from services.monitor.frames import Frames
from services.monitor.parity import Parity
from services.monitor.projections import OutcomeTables, SealedTables
from services.monitor.servicer import ContestServicer, MonitorServicer
from services.monitor.settings import Settings
from services.monitor.unsealed import UnsealedRecords


async def build(harness: Harness) -> None:
    """Put monitor together."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    # Waiting records are nowhere else yet.
    database = open_database(settings.database, synchronous="FULL")
    harness.stack.callback(database.close)
    unsealed = UnsealedRecords(database)
    sealed = harness.add_projection(SealedTables(harness.artifacts))
    frames = Frames(unsealed, sealed, harness.add_projection(OutcomeTables(harness.artifacts)))
    monitor = Monitor(harness.log, harness.artifacts, unsealed, sealed, frames, detector=settings.detector)
    parity = Parity(harness.log, harness.artifacts, frames, sealed, harness.channel("features"))
    contests = Contests(
        harness.log,
        harness.artifacts,
        monitor,
        harness.add_projection(ContestTables()),
        Explanations(harness.channel("serving")),
        harness.clock,
        timedelta(days=settings.contest_days),
    )
    harness.add_task("sealing", monitor.run)
    harness.add_servicer(
        add_MonitorServiceServicer_to_server,
        MonitorServicer(monitor, parity),
        monitor_service_pb2.DESCRIPTOR.services_by_name["MonitorService"].full_name,
    )
    harness.add_servicer(
        add_ContestServiceServicer_to_server,
        ContestServicer(contests),
        contest_service_pb2.DESCRIPTOR.services_by_name["ContestService"].full_name,
    )
