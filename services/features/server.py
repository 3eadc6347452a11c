"""Composition root of features."""

import asyncio

from chassis.server import Harness
from lineal.api.features.v1 import features_service_pb2
from lineal.api.features.v1.features_service_pb2_grpc import add_FeaturesServiceServicer_to_server
from services.features.application import Features
from services.features.compute import Compute
from services.features.online import OnlineTables
from services.features.projections import FeaturesTables
from services.features.servicer import FeaturesServicer
from services.features.settings import Settings


async def build(harness: Harness) -> None:
    """Put features together."""
    assert isinstance(harness.settings, Settings)
    tables = harness.add_projection(FeaturesTables())
    online = harness.add_projection(OnlineTables(harness.artifacts))
    compute = Compute(harness.settings)
    harness.stack.push_async_callback(asyncio.to_thread, compute.close)
    harness.add_servicer(
        add_FeaturesServiceServicer_to_server,
        FeaturesServicer(Features(harness.log, harness.artifacts, tables, online, compute)),
        features_service_pb2.DESCRIPTOR.services_by_name["FeaturesService"].full_name,
    )
