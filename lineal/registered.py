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

    They are as of the newest event of the log or later.
    """
    names: dict[str, list[str]] = {}
    for definition in definitions:
        names.setdefault(definition.kind, []).append(definition.name)
    head = services.lineage.call("GetHead", lineage_api.GetHeadRequest()).position
    asked = {"include_retired": True, "min_position": head}
    datasets = {}
    retired: set[tuple[str, str]] = set()
    for name in names.get("Dataset", []):
        request = ingest_api.GetDatasetRequest(name=name, min_position=head)
        found = _if_there(services.ingest, "GetDataset", request)
        if found is not None:
            datasets[name] = found.dataset
            retired |= {("Dataset", name)} if found.retired else set()
    views: dict[str, Any] = {}
    sets: dict[str, Any] = {}
    models: dict[str, Any] = {}
    endpoints: dict[str, Any] = {}
    for page in pages(services.features, "ListFeatureViews", features_api.ListFeatureViewsRequest, **asked):
        views |= {view.name: view for view in page.feature_views}
        retired |= {("FeatureView", name) for name in page.retired}
    for page in pages(services.features, "ListFeatureSets", features_api.ListFeatureSetsRequest, **asked):
        sets |= {entry.feature_set.name: entry for entry in page.feature_sets}
        retired |= {("FeatureSet", entry.feature_set.name) for entry in page.feature_sets if entry.retired}
    for page in pages(services.registry, "ListModels", registry_api.ListModelsRequest, **asked):
        models |= {model.name: model for model in page.models}
        retired |= {("Model", name) for name in page.retired}
    for page in pages(services.registry, "ListEndpoints", registry_api.ListEndpointsRequest, **asked):
        endpoints |= {entry.endpoint.name: entry.endpoint for entry in page.endpoints}
        retired |= {("Endpoint", entry.endpoint.name) for entry in page.endpoints if entry.retired}
    return Registered(
        datasets=datasets,
        views=views,
        sets={name: entry.feature_set for name, entry in sets.items()},
        set_versions={name: entry.version for name, entry in sets.items()},
        models=models,
        endpoints=endpoints,
        retired=frozenset(retired),
    )


def _if_there(service: Service, method: str, request: Any) -> Any:
    try:
        return service.call(method, request)
    except CallFailed as error:
        if error.code != grpc.StatusCode.NOT_FOUND:
            raise
        return None


def pages(service: Service, method: str, request: Any, **asked: Any) -> Iterator[Any]:
    """Yield the pages of a list; `request` is the class of its requests, `asked` its other fields."""
    token = ""
    while True:
        page = service.call(method, request(page_size=_PAGE, page_token=token, **asked))
        yield page
        token = page.next_page_token
        if not token:
            return
