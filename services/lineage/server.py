"""Lineage's composition root."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.server import CannotStart, Harness
from lineal.api.lineage.v1 import lineage_service_pb2
from lineal.api.lineage.v1.lineage_service_pb2_grpc import add_LineageServiceServicer_to_server
from services.lineage.application import Application
from services.lineage.graph import Graph
from services.lineage.local_log import LocalLog
from services.lineage.projections import GraphProjection
from services.lineage.servicer import LineageServicer
from services.lineage.settings import Settings
from services.lineage.store import EventStore, WriterExists
from services.lineage.tree import Tree
from services.lineage.writer import Writer


async def build(harness: Harness) -> None:
    """Open the log and offer it."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    store, writer = await harness.enter(_opened(harness, settings))
    application = Application(store, writer, settings.max_event_bytes)
    harness.log = LocalLog(application)
    graph = Graph(harness.add_projection(GraphProjection()))

    async def let_go() -> None:
        await harness.draining.wait()
        await writer.stop()

    harness.add_task("writer", writer.run)
    harness.add_task("let subscribers go", let_go)
    harness.add_servicer(
        add_LineageServiceServicer_to_server,
        LineageServicer(application, graph),
        lineage_service_pb2.DESCRIPTOR.services_by_name["LineageService"].full_name,
    )


@asynccontextmanager
async def _opened(harness: Harness, settings: Settings) -> AsyncIterator[tuple[EventStore, Writer]]:
    store = await asyncio.to_thread(EventStore, settings.database)
    writer = Writer(store, Tree(store), harness.clock, settings.max_pending_appends)
    try:
        try:
            await writer.open()
        except WriterExists as error:
            raise CannotStart(str(error)) from error
        yield store, writer
    finally:
        await writer.close()
        await asyncio.to_thread(store.close)
