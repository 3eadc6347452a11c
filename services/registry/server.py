"""Composition root of the registry."""

import asyncio

from chassis.server import Harness
from lineal.api.registry.v1 import registry_service_pb2
from lineal.api.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from services.registry.application import Registry
from services.registry.keys import Keys
from services.registry.leases import Leases
from services.registry.projections import RegistryTables
from services.registry.reviewing import Reviewing
from services.registry.servicer import RegistryServicer
from services.registry.settings import Settings
from services.registry.signing import Signing


async def build(harness: Harness) -> None:
    """Put the registry together."""
    settings = harness.settings
    assert isinstance(settings, Settings)
    tables = harness.add_projection(RegistryTables())
    keys = await asyncio.to_thread(Keys, settings.keys_dir or settings.service_dir / "keys")
    signing = Signing(harness.log, harness.artifacts, tables, keys, harness.clock, settings.key_life)
    harness.add_task("signatures", signing.run)
    leases = Leases(harness.log, tables, harness.clock)
    harness.add_task("leases", leases.run)
    harness.add_servicer(
        add_RegistryServiceServicer_to_server,
        RegistryServicer(
            Registry(harness.log, harness.artifacts, tables, signing),
            leases,
            signing,
            Reviewing(harness.log, harness.artifacts),
        ),
        registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name,
    )
