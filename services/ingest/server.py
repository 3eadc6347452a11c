"""Composition root of ingest."""

from chassis.databases import open_database
from chassis.server import Harness
from lineal.api.ingest.v1 import ingest_service_pb2, quarantine_service_pb2, vault_service_pb2
from lineal.api.ingest.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from lineal.api.ingest.v1.quarantine_service_pb2_grpc import add_QuarantineServiceServicer_to_server
from lineal.api.ingest.v1.vault_service_pb2_grpc import add_VaultServiceServicer_to_server
from services.ingest.application import Ingest
from services.ingest.projections import IngestTables
from services.ingest.pseudonyms import Pseudonyms
from services.ingest.servicer import IngestServicer, QuarantineServicer, VaultServicer
from services.ingest.settings import Settings
from services.ingest.uses import UsesTable
from services.ingest.vault import Vault


async def build(harness: Harness) -> None:
    """Put ingest together."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    tables = harness.add_projection(IngestTables())
    uses = harness.add_projection(UsesTable())
    # Protected attributes are nowhere else.
    database = open_database(settings.database, synchronous="FULL")
    harness.stack.callback(database.close)
    pseudonyms = Pseudonyms.load(settings.pseudonym_key)
    ingest = Ingest(harness.log, harness.artifacts, tables, uses, pseudonyms, Vault(database))
    harness.add_servicer(
        add_IngestServiceServicer_to_server,
        IngestServicer(ingest),
        ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name,
    )
    harness.add_servicer(
        add_QuarantineServiceServicer_to_server,
        QuarantineServicer(ingest.quarantine),
        quarantine_service_pb2.DESCRIPTOR.services_by_name["QuarantineService"].full_name,
    )
    harness.add_servicer(
        add_VaultServiceServicer_to_server,
        VaultServicer(ingest.vault),
        vault_service_pb2.DESCRIPTOR.services_by_name["VaultService"].full_name,
    )
