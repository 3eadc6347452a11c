"""Build training sets on a real cluster, without the services around it."""

from pathlib import Path

import pyarrow as pa
from google.protobuf.json_format import MessageToDict

from chassis.artifacts import LocalArtifactStore, canonical_json
from lineal.api.features.v1.events_pb2 import FeatureSetRegistered, FeatureViewRegistered, TrainingSetBuilt
from services.features import declarations, training
from services.features.settings import Settings
from services.features.steps import Plan
from tabular.parquet import to_parquet
from tabular.schema import arrow_schema
from tests.integration.features.world import corrections, random_trips
from tests.unit.tabular.declarations import ends, feature_set, trips, view


def settings(folder: Path, workers: int = 2) -> Settings:
    """Return settings of a cluster of its own for a folder of artifacts."""
    return Settings(data_dir=folder, artifacts_url=str(folder / "artifacts"), dask_workers=workers)


def planned(folder: Path, count: int, batch_rows: int = 100, corrected: int = 0) -> Plan:
    """Write snapshots of random trips, some ends corrected, and return what is to be built of them."""
    store = LocalArtifactStore(folder / "artifacts")
    digests = {}
    started, ended = random_trips(seed=6, count=count)
    for dataset, rows in ((trips(), started), (ends(), [*ended, *corrections(7, ended, corrected)])):
        table = pa.Table.from_pylist(rows, schema=arrow_schema(dataset))
        batches = [table.slice(start, batch_rows) for start in range(0, len(rows), batch_rows)]
        files = [{"digest": store.put(to_parquet(batch)), "rows": batch.num_rows} for batch in batches]
        declaration = MessageToDict(dataset, preserving_proto_field_name=True)
        manifest = {"kind": "lineal.snapshot", "dataset": dataset.name, "declaration": declaration, "files": files}
        digests[dataset.name] = store.put(canonical_json(manifest))
    (of_view,) = declarations.register_view(declarations.ViewState(), view(), ends())
    assert isinstance(of_view, FeatureViewRegistered)
    datasets = {"trips": trips(), "ends": ends()}
    registered = {view().name: of_view}
    (of_set,) = declarations.register_set(declarations.SetState(), feature_set(), datasets, registered)
    assert isinstance(of_set, FeatureSetRegistered)
    return training.plan(store, of_set, registered, TrainingSetBuilt(feature_set="late", snapshots=digests))
