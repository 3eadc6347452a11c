"""Landed flights as online features are asked about them: ten features by tail number, and windows by carrier."""

from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.json_format import ParseDict

from benchmarks import flight_snapshots
from examples.flights import source
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from tabular.parquet import conform
from tabular.schema import arrow_schema

DATASET = "arrivals"
FEATURE_SET = "tail"


def datasets() -> list[Dataset]:
    """Return the declarations of landings, and of the schedule, whose rows a feature set is asked about."""
    declared = flight_snapshots.datasets()
    return [declared["flights"], declared[DATASET]]


def views() -> list[FeatureView]:
    """Return the two views over landings; that by tail number has ten features."""
    declared = flight_snapshots.views()
    week: dict[str, Any] = {"column": "delay", "window": "604800s"}
    more: list[dict[str, Any]] = [
        {"name": "std_7d", "aggregate": {"function": "AGGREGATE_FUNCTION_STD", **week}},
        {"name": "sum_7d", "aggregate": {"function": "AGGREGATE_FUNCTION_SUM", **week}},
        {"name": "late_7d", "aggregate": {"function": "AGGREGATE_FUNCTION_SHARE_ABOVE", "threshold": 15.0, **week}},
        {"name": "delay_now", "latest": {"column": "delay"}},
        {"name": "delay_before", "lag": {"column": "delay", "n": 2}},
        {"name": "since_last", "since_last": {}},
    ]
    tail, carrier = declared["tail"], declared["carrier"]
    # Beside it, since parsing would put repeated fields in the place of those that are there.
    tail.MergeFrom(ParseDict({"features": more}, FeatureView()))
    return [tail, carrier]


def feature_set() -> FeatureSet:
    """Return the feature set of the ten features."""
    declared = flight_snapshots.feature_set()
    del declared.view_features[:]
    declared.name = FEATURE_SET
    return ParseDict({"view_features": [{"view": "tail"}]}, declared)


def landings() -> pa.Table:
    """Return the year's landings of flights with a tail number, in the order in which they became known."""
    arrivals = source.load().arrivals.rename(columns={"arrival_delay": "delay"}).dropna(subset=["tailnum"])
    (schema,) = (arrow_schema(dataset) for dataset in datasets() if dataset.name == DATASET)
    return conform(pa.Table.from_pandas(arrivals, preserve_index=False), schema)


def micros(times: pa.ChunkedArray) -> list[int]:
    """Return instants as microseconds since 1970-01-01 UTC."""
    values: list[int] = np.asarray(times.cast(pa.int64())).tolist()
    return values
