"""What is declared, to be searched by name, description, owner and column."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.ingest.v1 import ingest_service_pb2 as ingest_api
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.calls import Services
from lineal.errors import LinealError
from lineal.registered import pages


@dataclass(frozen=True)
class Entry:
    """One definition, with the columns of a dataset or the features of a view or feature set; others have none."""

    kind: str
    name: str
    description: str
    owner: str
    columns: tuple[str, ...]
    retired: bool

    def has(self, text: str) -> bool:
        """Tell whether each word of a text is in the name, description, owner or a column; case does not count."""
        there = "\n".join((self.name, self.description, self.owner, *self.columns)).casefold()
        return all(word in there for word in text.casefold().split())


def catalog(
    services: Services,
    text: str = "",
    *,
    retired: bool = False,
    as_of_position: int = 0,
    as_of_time: datetime | None = None,
) -> list[Entry]:
    """Return the definitions that have a text, by kind and name; those that are retired only when asked for.

    They are as of the newest event of the log or later, or as they were at a log position or a time. Raises CallFailed,
    LinealError when both are given.
    """
    if as_of_position and as_of_time is not None:
        raise LinealError("as_of_position and as_of_time exclude each other; give one of the two")
    request = lineage_api.GetHeadRequest()
    if as_of_time is not None:
        request.as_of_time.FromDatetime(as_of_time)
        as_of_position = services.lineage.call("GetHead", request).position
        # Before the first event nothing was declared; a position of 0 would mean now.
        if not as_of_position:
            return []
    if as_of_position:
        moment = {"as_of_position": as_of_position}
    else:
        moment = {"min_position": services.lineage.call("GetHead", request).position}
    return [entry for entry in _entries(services, {"include_retired": retired} | moment) if entry.has(text)]


def _entries(services: Services, asked: dict[str, Any]) -> Iterator[Entry]:
    for page in pages(services.ingest, "ListDatasets", ingest_api.ListDatasetsRequest, **asked):
        for found in page.datasets:
            columns = (field.name for field in found.dataset.fields)
            yield _entry("Dataset", found.dataset, columns, found.retired)
    for page in pages(services.features, "ListFeatureViews", features_api.ListFeatureViewsRequest, **asked):
        for view in page.feature_views:
            yield _entry("FeatureView", view, (f.name for f in view.features), view.name in page.retired)
    for page in pages(services.features, "ListFeatureSets", features_api.ListFeatureSetsRequest, **asked):
        for found in page.feature_sets:
            columns = (column.name for column in found.columns)
            yield _entry("FeatureSet", found.feature_set, columns, found.retired)
    for page in pages(services.registry, "ListModels", registry_api.ListModelsRequest, **asked):
        for model in page.models:
            yield _entry("Model", model, (), model.name in page.retired)
    for page in pages(services.registry, "ListEndpoints", registry_api.ListEndpointsRequest, **asked):
        for found in page.endpoints:
            yield _entry("Endpoint", found.endpoint, (), found.retired)


def _entry(kind: str, declared: Any, columns: Iterable[str], retired: bool) -> Entry:
    return Entry(kind, declared.name, declared.description, declared.owner, tuple(columns), retired)
