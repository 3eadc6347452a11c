"""Composition root of the registry."""

from chassis.server import Harness
from lineal.api.registry.v1 import registry_service_pb2
from lineal.api.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from services.registry.application import Registry
from services.registry.leases import Leases
from services.registry.projections import RegistryTables
from services.registry.servicer import RegistryServicer


async def build(harness: Harness) -> None:
    """Put the registry together."""
    tables = harness.add_projection(RegistryTables())
    leases = Leases(harness.log, tables, harness.clock)
    harness.add_task("leases", leases.run)
    harness.add_servicer(
        add_RegistryServiceServicer_to_server,
        RegistryServicer(Registry(harness.log, harness.artifacts, tables), leases),
        registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name,
    )
