"""A world in which a shop's customers are scored, without the services that training and lookups take."""

from typing import Any

from chassis.artifacts import canonical_json
from lineal.api.registry.v1 import registry_service_pb2 as api
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.model_pb2 import Model
from tabular.bundle import CARD_FILE, MODEL_FILE, Bundle, ModelColumn
from tests.integration.test_predictions import World, fitted, model_bytes, rid


class Shop(World):
    """An endpoint `shop` of an imported model."""

    def __init__(self, suite: Any, **stubs: Any) -> None:
        """Take stubs of services that do not run in the suite."""
        self.suite = suite
        names = "registry", "serving", "monitor"
        self.registry, self.serving, self.monitor = (stubs.get(name) or suite.stub(name) for name in names)

    async def bundle(self, seed: int) -> str:
        artifacts = self.suite.artifacts
        model, card = artifacts.put(model_bytes(fitted(seed))), artifacts.put(f"Model {seed}.".encode())
        columns = ModelColumn("amount", "numeric"), ModelColumn("shop", "categorical")
        bundle = Bundle("shop", "binary", columns, {MODEL_FILE: model, CARD_FILE: card})
        digest: str = artifacts.put(canonical_json(bundle.to_json()))
        await self.releasable(digest)
        return digest

    async def declare(self, *, strict: bool = False) -> None:
        """Declare the model and its endpoint."""
        await self.registry.RegisterModel(api.RegisterModelRequest(request_id=rid(), model=Model(name="shop")))
        endpoint = Endpoint(name="shop", model="shop", strict=strict)
        await self.registry.RegisterEndpoint(api.RegisterEndpointRequest(request_id=rid(), endpoint=endpoint))


async def opened(suite: Any, *, strict: bool = False, **settings: Any) -> Shop:
    """Start what the shop needs and declare its endpoint; `settings` are serving's."""
    await suite.start("lineage", "registry", "monitor", "serving", **settings)
    shop = Shop(suite)
    await shop.declare(strict=strict)
    return shop
