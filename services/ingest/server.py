"""Composition root of ingest."""

from chassis.server import Harness
from lineal.api.ingest.v1 import ingest_service_pb2
from lineal.api.ingest.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from services.ingest.application import Ingest
from services.ingest.projections import IngestTables
from services.ingest.servicer import IngestServicer


async def build(harness: Harness) -> None:
    """Put ingest together."""
    tables = harness.add_projection(IngestTables())
    harness.add_servicer(
        add_IngestServiceServicer_to_server,
        IngestServicer(Ingest(harness.log, harness.artifacts, tables)),
        ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name,
    )
