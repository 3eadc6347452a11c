"""Facets of OpenLineage: what a dataset, a run or a job says about itself, each of a version of the specification."""

from collections.abc import Iterable, Mapping
from typing import Any

from lineal import __version__
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered
from lineal.api.features.v1.feature_set_pb2 import ColumnSource, ColumnType
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset, FieldType
from lineal.api.ingest.v1.events_pb2 import BatchAccepted

NAMESPACE = "lineal"
PRODUCER = f"urn:lineal:{__version__}"
SPEC = "https://openlineage.io/spec"

Facet = dict[str, Any]


def facet(name: str, version: str, **values: Any) -> Facet:
    """Return a facet with what every facet must have."""
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}", **values}


def statistics(rows: int) -> Facet:
    """Return how many rows were written."""
    return facet("OutputStatisticsOutputDatasetFacet", "1-0-2", rowCount=rows)


def declared(dataset: Dataset) -> Facet:
    """Return the facets of a dataset that follow from its declaration, by their keys."""
    fields = [_field(f.name, FieldType.Name(f.type), n, f.description) for n, f in enumerate(dataset.fields, start=1)]
    found = {"schema": facet("SchemaDatasetFacet", "1-2-0", fields=fields)}
    if dataset.owner:
        owners = [{"name": dataset.owner, "type": "OWNER"}]
        found["ownership"] = facet("OwnershipDatasetFacet", "1-0-1", owners=owners)
    return found


def assembled(registered: FeatureSetRegistered, views: Mapping[str, FeatureView]) -> Facet:
    """Return the facets of a training set that follow from its feature set, by their keys: columns and their origin.

    `views` are the feature views by name, as the feature set has them.
    """
    declaration = registered.feature_set
    fields = [_field(c.name, ColumnType.Name(c.type), n) for n, c in enumerate(registered.columns, start=1)]
    origins: Facet = {
        asked.column: _origin([(declaration.spine.dataset, asked.column)], "IDENTITY")
        for asked in declaration.request_features
    }
    # The columns of views stand in the order of the declaration; their names are the platform's business.
    names = (column.name for column in registered.columns if column.source == ColumnSource.COLUMN_SOURCE_VIEW)
    for wanted in declaration.view_features:
        view = views[wanted.view]
        declared_features = {feature.name: feature for feature in view.features}
        for feature in map(declared_features.__getitem__, wanted.features or declared_features):
            kind = feature.WhichOneof("kind") or ""
            column = getattr(getattr(feature, kind, None), "column", "")
            read = _sources(view, column) if column else list(view.entity_keys)
            subtype = "AGGREGATION" if kind == "aggregate" else "TRANSFORMATION"
            origins[next(names)] = _origin([(view.dataset, each) for each in read], subtype)
    if declaration.label.column:
        origins["label"] = _origin([(declaration.label.dataset, declaration.label.column)], "TRANSFORMATION")
    return {
        "schema": facet("SchemaDatasetFacet", "1-2-0", fields=fields),
        "columnLineage": facet("ColumnLineageDatasetFacet", "1-2-0", fields=origins),
    }


def validated(batch: BatchAccepted) -> Facet:
    """Return what the validation of a batch found."""
    assertion = {
        "assertion": "rows_are_as_declared",
        "success": not batch.quarantined_rows,
        "severity": "error",
        "expected": "0 rows in quarantine",
        "actual": f"{batch.quarantined_rows} of {batch.accepted_rows + batch.quarantined_rows}",
    }
    return facet("DataQualityAssertionsDatasetFacet", "1-1-0", assertions=[assertion])


def _field(name: str, enum_name: str, position: int, description: str = "") -> Facet:
    kind = enum_name.partition("_TYPE_")[2].lower()
    found: Facet = {"name": name, "type": kind, "ordinal_position": position}
    return {**found, "description": description} if description else found


def _sources(view: FeatureView, column: str) -> list[str]:
    """Return the columns of the dataset that a column is, or is computed from by the view's transforms."""
    found = {column: None}
    for transform in reversed(view.transforms):
        kind = transform.WhichOneof("kind") or ""
        declared = getattr(transform, kind, None)
        made = {transform.name, getattr(declared, "flag", "")}
        if made.isdisjoint(found):
            continue
        places = ("column", "numerator", "denominator", "left", "right")
        found = {name: None for name in found if name not in made}
        found |= {name: None for place in places if (name := getattr(declared, place, ""))}
    return list(found)


def _origin(columns: Iterable[tuple[str, str]], subtype: str) -> Facet:
    return {
        "inputFields": [
            {
                "namespace": NAMESPACE,
                "name": f"dataset/{dataset}",
                "field": column,
                "transformations": [{"type": "DIRECT", "subtype": subtype}],
            }
            for dataset, column in columns
        ]
    }
