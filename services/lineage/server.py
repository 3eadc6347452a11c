"""Lineage's composition root."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.server import CannotStart, Harness
from chassis.standby import standing_by
from lineal.api.lineage.v1 import keeping_service_pb2, lineage_service_pb2, proof_service_pb2
from lineal.api.lineage.v1.keeping_service_pb2_grpc import add_KeepingServiceServicer_to_server
from lineal.api.lineage.v1.lineage_service_pb2_grpc import add_LineageServiceServicer_to_server
from lineal.api.lineage.v1.proof_service_pb2_grpc import add_ProofServiceServicer_to_server
from services.lineage.application import Application
from services.lineage.checkpoint_files import CheckpointFiles
from services.lineage.graph import Graph
from services.lineage.keeping_servicer import KeepingServicer
from services.lineage.keys import Keys
from services.lineage.local_log import LocalLog
from services.lineage.projections import GraphProjection
from services.lineage.proof_servicer import ProofServicer
from services.lineage.proofs import LogChanged, Proofs, Witness
from services.lineage.sealing import Sealer
from services.lineage.servicer import LineageServicer
from services.lineage.settings import Settings
from services.lineage.store import EventStore
from services.lineage.store_writer import WriterExists
from services.lineage.tree import Tree, TreeIncomplete
from services.lineage.writer import Writer

_logger = logging.getLogger(__name__)


async def build(harness: Harness) -> None:
    """Open the log and offer it."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    store, tree, writer = await harness.enter(_opened(harness, settings))
    keys = await asyncio.to_thread(Keys, settings.keys_dir or settings.service_dir / "keys", settings.origin)
    proofs = Proofs(store, tree, writer, keys)
    second_place = settings.checkpoints_url or str(settings.service_dir / "checkpoints")
    witness = Witness(second_place, proofs, tree)
    try:
        await asyncio.to_thread(witness.check, writer.head)
    except LogChanged as error:
        raise CannotStart(str(error)) from error
    application = Application(store, writer, settings.max_event_bytes)
    harness.log = LocalLog(application)
    graph = Graph(harness.add_projection(GraphProjection()))

    async def let_go() -> None:
        await harness.draining.wait()
        await writer.stop()

    await harness.enter(_last_checkpoint(witness))

    async def leave_checkpoints() -> None:
        while True:
            await _leave_checkpoint(witness)
            await asyncio.sleep(settings.checkpoint_seconds)

    harness.add_inspection(writer.inspect)
    harness.add_task("writer", writer.run)
    harness.add_task("checkpoints", leave_checkpoints)
    harness.add_task("let subscribers go", let_go)
    harness.add_servicer(
        add_LineageServiceServicer_to_server,
        LineageServicer(application, graph),
        lineage_service_pb2.DESCRIPTOR.services_by_name["LineageService"].full_name,
    )
    harness.add_servicer(
        add_ProofServiceServicer_to_server,
        ProofServicer(proofs),
        proof_service_pb2.DESCRIPTOR.services_by_name["ProofService"].full_name,
    )
    harness.add_servicer(
        add_KeepingServiceServicer_to_server,
        KeepingServicer(
            application,
            store,
            harness.artifacts,
            CheckpointFiles(second_place, keys),
            Sealer(store, writer, harness.artifacts, harness.clock),
            harness.clock,
        ),
        keeping_service_pb2.DESCRIPTOR.services_by_name["KeepingService"].full_name,
    )


async def _leave_checkpoint(witness: Witness) -> None:
    try:
        await witness.write()
    except OSError:
        # The second place may be away for a while; the log goes on.
        _logger.exception("no checkpoint could be written")


@asynccontextmanager
async def _last_checkpoint(witness: Witness) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await _leave_checkpoint(witness)


@asynccontextmanager
async def _opened(harness: Harness, settings: Settings) -> AsyncIterator[tuple[EventStore, Tree, Writer]]:
    store = await asyncio.to_thread(EventStore, settings.database, harness.artifacts)
    tree = Tree(store)
    writer = Writer(store, tree, harness.clock, settings.max_pending_appends, settings.writer_timeout_seconds)
    try:
        try:
            await _took_over(harness, settings, writer)
        except (WriterExists, TreeIncomplete) as error:
            raise CannotStart(str(error)) from error
        yield store, tree, writer
    finally:
        await writer.close()
        await asyncio.to_thread(store.close)


async def _took_over(harness: Harness, settings: Settings, writer: Writer) -> None:
    try:
        await writer.open()
    except WriterExists:
        if settings.database.startswith("sqlite"):
            raise
        # Nothing is built before it is this one's turn: it is built from what the other one has left.
        async with standing_by(settings, harness.telemetry, "another lineage process writes; this one stands by"):
            _logger.info("another process writes to the log; standing by for it")
            await writer.open_later()
        _logger.warning("took over the log at position %d", writer.head)
