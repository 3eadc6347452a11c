"""`lineal retire` and `lineal catalog` against running services: what is retired is not used anew, and comes back."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lineal import Client
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.catalog import catalog
from lineal.client import CallFailed, new_request_id
from tests.integration.running import Suite
from tests.integration.test_plan import SHOP, lineal, states

# Users first.
ORDER = (
    ("Endpoint", "unpaid"),
    ("Model", "unpaid"),
    ("FeatureSet", "order"),
    ("FeatureView", "customer"),
    ("Dataset", "payments"),
)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(CallFailed) as caught:
        call()
    return str(caught.value)


def names(client: Client, text: str = "", *, retired: bool = False) -> list[tuple[str, str]]:
    return [(entry.kind, entry.name) for entry in catalog(client.services, text, retired=retired)]


def head(client: Client) -> int:
    return int(client.services.lineage.call("GetHead", lineage_api.GetHeadRequest()).position)


async def test_what_is_retired_is_not_used_anew_and_an_apply_brings_it_back(suite: Suite, tmp_path: Path) -> None:
    await suite.start("lineage", "ingest", "features", "registry")
    project = tmp_path / "project"
    project.mkdir()
    (project / "shop.yaml").write_text(SHOP.read_text())
    paid = pd.DataFrame(
        {"order_id": ["o"], "customer": ["c"], "unpaid": [0.0], "settled": [datetime(2024, 5, 1, tzinfo=UTC)]}
    )

    def story() -> None:
        with Client(suite.profile) as client:
            client.apply(project)
            client.ingest("payments", paid, batch_id="before")
            everything = names(client)
            before = head(client)
            for n, (kind, name) in enumerate(reversed(ORDER)):
                if n < len(ORDER) - 1:
                    assert "is still used by" in refused(lambda k=kind, m=name: client.retire(k, m, reason="old"))  # type: ignore[misc]
            assert "feature set 'order', feature view 'customer'" in refused(
                lambda: client.retire("Dataset", "payments", reason="old")
            )
            assert head(client) == before
            positions = [client.retire(kind, name, reason="old") for kind, name in ORDER]
            # Again: nothing happens.
            assert [client.retire(kind, name, reason="older") for kind, name in ORDER] == positions

            assert names(client) == [("Dataset", "orders")]
            assert names(client, retired=True) == everything
            check_refusals(client, paid)
            check_past(client, before)
            # The batch that was accepted before is answered as it was.
            assert client.ingest("payments", paid, batch_id="before").accepted == 1

            planned = states(client.plan(project))
            assert {key for key, change in planned.items() if change == "brought back"} == set(ORDER)
            client.apply(project)
            assert not client.plan(project).changes
            assert names(client) == everything
            client.ingest("payments", paid, batch_id="after")

    await asyncio.to_thread(story)


def check_refusals(client: Client, paid: pd.DataFrame) -> None:
    services = client.services
    assert "dataset: dataset 'payments' is retired" in refused(lambda: client.ingest("payments", paid, batch_id="new"))
    assert "dataset 'payments' is retired" in refused(lambda: client.snapshot("payments"))
    assert "endpoint 'unpaid' is retired" in refused(lambda: client.train("unpaid"))
    view = services.features.call(
        "ListFeatureViews", features_api.ListFeatureViewsRequest(include_retired=True)
    ).feature_views[0]
    view.name = "another"
    request = features_api.RegisterFeatureViewRequest(request_id=new_request_id(), feature_view=view)
    assert "feature_view.dataset: dataset 'payments' is retired" in refused(
        lambda: services.features.call("RegisterFeatureView", request)
    )
    found = services.features.call("GetFeatureSet", features_api.GetFeatureSetRequest(name="order"))
    assert found.retired
    found.feature_set.name = "another"
    asked = features_api.RegisterFeatureSetRequest(request_id=new_request_id(), feature_set=found.feature_set)
    assert "feature_set.view_features[0].view: feature view 'customer' is retired" in refused(
        lambda: services.features.call("RegisterFeatureSet", asked)
    )
    endpoint = services.registry.call("GetEndpoint", registry_api.GetEndpointRequest(name="unpaid")).endpoint
    endpoint.name = "another"
    declared = registry_api.RegisterEndpointRequest(request_id=new_request_id(), endpoint=endpoint)
    assert "endpoint.model: model 'unpaid' is retired" in refused(
        lambda: services.registry.call("RegisterEndpoint", declared)
    )


def check_past(client: Client, position: int) -> None:
    registry = client.services.registry
    for as_of, retired in ((position, False), (0, True)):
        model = registry.call("GetModel", registry_api.GetModelRequest(name="unpaid", as_of_position=as_of))
        assert (model.model.name, model.retired) == ("unpaid", retired)
        assert client.endpoint("unpaid", as_of_position=as_of).retired == retired


async def test_the_catalog_finds_by_column_owner_and_description(suite: Suite, tmp_path: Path) -> None:
    await suite.start("lineage", "ingest", "features", "registry")
    project = tmp_path / "project"
    project.mkdir()
    (project / "shop.yaml").write_text(SHOP.read_text())

    def story() -> int:
        with Client(suite.profile) as client:
            client.apply(project)
            assert names(client, "UNPAID_30d") == [("FeatureView", "customer"), ("FeatureSet", "order")]
            assert names(client, "shop late") == [("Dataset", "payments")]
            assert names(client, "checkout") == [("Endpoint", "unpaid")]
            return head(client)

    declared = await asyncio.to_thread(story)
    code, out = await lineal(suite, "retire", "endpoint", "unpaid", "--reason", "closed")
    assert (code, out.split(" (position")[0]) == (0, "endpoint unpaid is retired")
    code, out = await lineal(suite, "catalog", "checkout", "--retired")
    assert (code, "unpaid (retired)" in out) == (0, True)
    code, out = await lineal(suite, "catalog", "checkout")
    assert (code, "unpaid" in out) == (0, False)
    code, out = await lineal(suite, "catalog", "checkout", "--position", str(declared))
    assert (code, "unpaid (retired)" in out, "unpaid" in out) == (0, False, True)
    code, out = await lineal(suite, "catalog", "checkout", "--at", "2001-01-01")
    assert (code, "unpaid" in out) == (0, False)
    code, out = await lineal(suite, "plan", str(project))
    assert code == 2
    assert "^ Endpoint unpaid: brought back" in out.splitlines()
    assert out.splitlines()[-1] == "0 new, 0 changed, 5 unchanged, 1 brought back"
