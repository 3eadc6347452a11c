"""Composition root of features."""

import asyncio

from chassis.server import Harness
from lineal.api.features.v1 import features_service_pb2
from lineal.api.features.v1.features_service_pb2_grpc import add_FeaturesServiceServicer_to_server
from services.features.application import Features
from services.features.batches import BatchTables
from services.features.compute import Compute
from services.features.online import OnlineTables
from services.features.online_store import OnlineStore, SqlOnlineStore
from services.features.projections import FeaturesTables
from services.features.servicer import FeaturesServicer
from services.features.settings import Settings


async def build(harness: Harness) -> None:
    """Put features together."""
    assert isinstance(harness.settings, Settings)
    tables = harness.add_projection(FeaturesTables())
    batches = harness.add_projection(BatchTables())
    online = _online(harness, harness.settings)
    compute = Compute(harness.settings)
    harness.stack.push_async_callback(asyncio.to_thread, compute.cluster.close)
    harness.add_servicer(
        add_FeaturesServiceServicer_to_server,
        FeaturesServicer(Features(harness.log, harness.artifacts, tables, batches, online, compute)),
        features_service_pb2.DESCRIPTOR.services_by_name["FeaturesService"].full_name,
    )


def _online(harness: Harness, settings: Settings) -> OnlineStore:
    if settings.redis_url is None:
        return SqlOnlineStore(harness.add_projection(OnlineTables(harness.artifacts)))
    # Imported here: an installation without Redis does not need its client.
    from services.features.redis_store import RedisOnlineStore

    store = RedisOnlineStore(settings.redis_url, harness.log, harness.artifacts)
    harness.add_task("online features in Redis", store.run)
    harness.add_check("online features in Redis", store.check)
    harness.stack.push_async_callback(store.close)
    return store
