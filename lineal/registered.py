"""Read from the services what is registered beside the definitions of a project."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.calls import Service, Services
from lineal.errors import CallFailed
from lineal.plan import Registered
from lineal.project import Definition

_PAGE = 1_000


def read_registered(services: Services, definitions: Sequence[Definition]) -> Registered:
    """Return what is registered now: of datasets those of the project, of the other kinds all. Raises CallFailed.

    The project's definitions and everything in features are as of the newest event of the log or later.
    """
    names: dict[str, list[str]] = {}
    for definition in definitions:
        names.setdefault(definition.kind, []).append(definition.name)
    head = services.lineage.call("GetHead", lineage_api.GetHeadRequest()).position
    datasets = {}
    for name in names.get("Dataset", []):
        request = ingest_api.GetDatasetRequest(name=name, min_position=head)
        found = _if_there(services.ingest, "GetDataset", request)
        if found is not None:
            datasets[name] = found.dataset
    # Views have no read that waits for a position; training sets have, and lie in the same tables.
    services.features.call("ListTrainingSets", features_api.ListTrainingSetsRequest(page_size=1, min_position=head))
    pages = _pages(services.features, "ListFeatureViews", features_api.ListFeatureViewsRequest)
    views = {view.name: view for page in pages for view in page.feature_views}
    pages = _pages(services.features, "ListFeatureSets", features_api.ListFeatureSetsRequest)
    sets = {entry.feature_set.name: entry for page in pages for entry in page.feature_sets}
    pages = _pages(services.registry, "ListModels", registry_api.ListModelsRequest)
    models = {model.name: model for page in pages for model in page.models}
    pages = _pages(services.registry, "ListEndpoints", registry_api.ListEndpointsRequest)
    endpoints = {entry.endpoint.name: entry.endpoint for page in pages for entry in page.endpoints}
    # Lists come from tables that may be behind; one by one, models and endpoints are read from their streams.
    for name in names.get("Model", []):
        found = _if_there(services.registry, "GetModel", registry_api.GetModelRequest(name=name))
        if found is not None:
            models[name] = found.model
    for name in names.get("Endpoint", []):
        found = _if_there(services.registry, "GetEndpoint", registry_api.GetEndpointRequest(name=name))
        if found is not None:
            endpoints[name] = found.endpoint
    return Registered(
        datasets=datasets,
        views=views,
        sets={name: entry.feature_set for name, entry in sets.items()},
        set_versions={name: entry.version for name, entry in sets.items()},
        models=models,
        endpoints=endpoints,
    )


def _if_there(service: Service, method: str, request: Any) -> Any:
    try:
        return service.call(method, request)
    except CallFailed as error:
        if error.code != grpc.StatusCode.NOT_FOUND:
            raise
        return None


def _pages(service: Service, method: str, request: Any) -> Iterator[Any]:
    token = ""
    while True:
        page = service.call(method, request(page_size=_PAGE, page_token=token))
        yield page
        token = page.next_page_token
        if not token:
            return
