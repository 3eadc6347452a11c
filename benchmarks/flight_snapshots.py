"""Snapshots of the flights, once or several times over in shifted years, and the features that are asked of them.

`python -m benchmarks.flight_snapshots FOLDER COPIES` writes them and prints the digests as JSON.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.json_format import MessageToDict, ParseDict

from chassis.artifacts import LocalArtifactStore, canonical_json
from examples.flights import source
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from lineal.api.features.v1.feature_set_pb2 import FeatureSet
from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset
from services.features import declarations, training
from services.features.steps import Plan
from tabular.parquet import conform, to_parquet
from tabular.schema import arrow_schema

OBSERVATIONS = ["temperature", "wind_speed", "precipitation", "visibility"]
WINDOWS = {"24h": 86_400, "7d": 604_800}
# A year that keeps the day of the week, so that copies of it never overlap.
YEAR = timedelta(days=371)
_BATCH_ROWS = 100_000


@dataclass(frozen=True)
class Snapshots:
    """Where the artifacts lie, each dataset's snapshot, and its Parquet files in order."""

    artifacts: str
    digests: dict[str, str]
    files: dict[str, list[str]]


def datasets() -> dict[str, Dataset]:
    """Return the declarations: the schedule, whose rows are asked about; landings; weather."""
    timed: dict[str, Any] = {"event_time": "event_time", "available_time": "available_time"}
    times = [{"name": name, "type": "FIELD_TYPE_TIMESTAMP"} for name in timed.values()]
    texts = {name: {"name": name, "type": "FIELD_TYPE_STRING"} for name in ("flight_id", "carrier", "origin", "dest")}
    tail = {"name": "tailnum", "type": "FIELD_TYPE_STRING", "nullable": True}
    fields: dict[str, list[dict[str, Any]]] = {
        "flights": [*texts.values(), tail, *({"name": n, "type": "FIELD_TYPE_INT64"} for n in ("distance", "hour"))],
        "arrivals": [texts["flight_id"], texts["carrier"], tail, {"name": "delay", "type": "FIELD_TYPE_FLOAT64"}],
        "weather": [
            texts["origin"],
            *({"name": n, "type": "FIELD_TYPE_FLOAT64", "nullable": True} for n in OBSERVATIONS),
        ],
    }
    keys = {"flights": ["flight_id"], "arrivals": ["flight_id"], "weather": ["origin", "event_time"]}
    return {
        name: ParseDict({"name": name, "row_key": keys[name], "fields": [*fields[name], *times], **timed}, Dataset())
        for name in fields
    }


def views() -> dict[str, FeatureView]:
    """Return the views: windows over landed flights by carrier and by tail number, and the latest weather."""
    aggregates = [
        {
            "name": f"{short}_{label}",
            "aggregate": {"function": f"AGGREGATE_FUNCTION_{function}", "column": "delay", "window": f"{seconds}s"},
        }
        for label, seconds in WINDOWS.items()
        for short, function in (("n", "COUNT"), ("mean", "MEAN"))
    ]
    latest = [{"name": name, "latest": {"column": name}} for name in OBSERVATIONS]
    declared = [
        {"name": "carrier", "dataset": "arrivals", "entity_keys": ["carrier"], "features": aggregates},
        {"name": "tail", "dataset": "arrivals", "entity_keys": ["tailnum"], "features": aggregates},
        {"name": "weather", "dataset": "weather", "entity_keys": ["origin"], "features": latest},
    ]
    return {str(view["name"]): ParseDict(view, FeatureView()) for view in declared}


def feature_set() -> FeatureSet:
    """Return the feature set: two hours before departure; the label is the distance, so that every flight enters."""
    declared = {
        "name": "flights",
        "spine": {"dataset": "flights", "cutoff_offset": "-7200s"},
        "request_features": [{"column": name} for name in ("carrier", "origin", "dest", "hour")],
        "view_features": [{"view": name} for name in views()],
        "label": {"dataset": "flights", "key": ["flight_id"], "column": "distance", "value": True},
    }
    return ParseDict(declared, FeatureSet())


def plan(snapshots: Snapshots) -> Plan:
    """Return what the service would have its cluster do."""
    registered = [
        e
        for v in views().values()
        for e in declarations.register_view(declarations.ViewState(), v, datasets()[v.dataset])
    ]
    by_name = {e.feature_view.name: e for e in registered if isinstance(e, FeatureViewRegistered)}
    (declared,) = declarations.register_set(declarations.SetState(), feature_set(), datasets(), by_name)
    assert isinstance(declared, FeatureSetRegistered)
    wanted = TrainingSetBuilt(feature_set="flights", snapshots=snapshots.digests)
    return training.plan(LocalArtifactStore(Path(snapshots.artifacts)), declared, by_name, wanted)


def write(folder: Path, copies: int) -> Snapshots:
    """Write the snapshots of so many years of flights, in the order in which their rows became known."""
    store = LocalArtifactStore(folder)
    tables = source.load()
    arrivals = tables.arrivals.rename(columns={"arrival_delay": "delay"})
    frames = {"flights": tables.flights, "arrivals": arrivals, "weather": tables.weather}
    digests, files = {}, {}
    for name, dataset in datasets().items():
        schema = arrow_schema(dataset)
        year = conform(pa.Table.from_pandas(frames[name], preserve_index=False), schema)
        listed = [(store.put(to_parquet(batch)), batch.num_rows) for batch in _batches(year, copies)]
        files[name] = [str(store.path(digest)) for digest, _ in listed]
        manifest = {
            "kind": "lineal.snapshot",
            "dataset": name,
            "declaration": MessageToDict(dataset, preserving_proto_field_name=True),
            "files": [{"digest": digest, "rows": rows} for digest, rows in listed],
        }
        digests[name] = store.put(canonical_json(manifest))
    return Snapshots(str(folder), digests, files)


def _batches(year: pa.Table, copies: int) -> Iterator[pa.Table]:
    for copy in range(copies):
        shifted = year
        for n, field in enumerate(year.schema):
            if pa.types.is_timestamp(field.type):
                column = pc.add(year[field.name], pa.scalar(copy * YEAR, pa.duration("us")))
                shifted = shifted.set_column(n, field, column)
            elif field.name == "flight_id" and copy:
                column = pc.binary_join_element_wise(year[field.name], str(copy), "/")
                shifted = shifted.set_column(n, field, column)
        yield from (shifted.slice(start, _BATCH_ROWS) for start in range(0, shifted.num_rows, _BATCH_ROWS))


def _main(folder: str, copies: str) -> None:
    print(json.dumps(asdict(write(Path(folder), int(copies)))))


if __name__ == "__main__":
    pd.set_option("mode.copy_on_write", True)
    _main(*sys.argv[1:])
